"""The HTTP face of the dispatcher: it asks the engine, and knows nothing of clouds or journals."""

from dispatcher.web.app import App, make_app, make_metrics_app
from dispatcher.web.clients import Clients
from dispatcher.web.guard import Limits
from dispatcher.web.ingress_fc import IngressFc
from dispatcher.web.ingress_lambda import IngressLambda
from dispatcher.web.listener import Listener

__all__ = [
    "App",
    "Clients",
    "IngressFc",
    "IngressLambda",
    "Limits",
    "Listener",
    "make_app",
    "make_metrics_app",
]

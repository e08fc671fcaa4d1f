"""
Sends to the clouds: one transport for each account, behind the port `Transport`.

What a cloud or the network does comes back as an `Outcome` (core/model.py). The extras `aws` and
`aliyun` are needed for the providers' own chains of credentials, and for nothing else here.
"""

from dispatcher.transports.aliyun_fc import FcTransport
from dispatcher.transports.aws_lambda import LambdaTransport
from dispatcher.transports.opening import open_transport

__all__ = ["FcTransport", "LambdaTransport", "open_transport"]

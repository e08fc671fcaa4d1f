import pytest

from tests.deploy import promql


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("up == 0", {"up"}),
        ('up{job=~"(.*/)?dispatcher"} == 0', {"up"}),
        ("sum by (job, le) (rate(a_total[5m])) / sum(b) > 14.4 * 0.001", {"a_total", "b"}),
        ("a unless on (job) (b == 1 or c == 1)", {"a", "b", "c"}),
        ("level:a:rate5m offset 1d and increase(b[30m]) > 1e3", {"level:a:rate5m", "b"}),
        ('histogram_quantile(0.99, sum by (le) (rate(a_bucket{x="y"}[5m])))', {"a_bucket"}),
        ("sum(a) by (job) * on (job) group_left (version) b", {"a", "b"}),
        ('label_replace(a, "b", "$1", "c", "{d}")', {"a"}),
        ("max_over_time((sum (a))[30m:1m])", {"a"}),
    ],
)
def test_metrics_of_an_expression(expression, names):
    assert promql.metrics(expression) == names

from collections import Counter

from dispatcher.demo.products import burst


async def test_every_product_sends_its_share_over_both_accounts():
    sent = []

    async def send(account, product, number):
        sent.append((account, product, number))

    await burst(100, send)
    assert Counter(product for _, product, _ in sent) == {
        "ingest": 50,
        "research": 30,
        "reports": 20,
    }
    assert Counter(account for account, _, _ in sent) == {"fc": 50, "lambda": 50}
    assert len(set(sent)) == 100

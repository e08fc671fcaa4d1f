import asyncio
import hashlib

import pytest

from tests.emulator.conftest import ACCOUNTS


async def made(client, **attributes: str) -> str:
    reply = await client.sqs("CreateQueue", QueueName="q", Attributes=attributes)
    assert reply.status == 200
    return str(reply.json["QueueUrl"])


async def test_messages_go_in_and_come_out(client):
    url = await made(client)
    assert url == f"{client.emulator.url}/123456789012/q"
    sent = (await client.sqs("SendMessage", QueueUrl=url, MessageBody="hé")).json
    assert sent["MD5OfMessageBody"] == hashlib.md5("hé".encode()).hexdigest()
    reply = await client.sqs(
        "ReceiveMessage", QueueUrl=url, MessageSystemAttributeNames=["SentTimestamp"]
    )
    assert reply.headers["Content-Type"] == "application/x-amz-json-1.0"
    [message] = reply.json["Messages"]
    assert (message["Body"], message["MessageId"]) == ("hé", sent["MessageId"])
    assert message["Attributes"]["SentTimestamp"].isdigit()
    assert (await client.sqs("ReceiveMessage", QueueUrl=url)).json == {}
    receipt = message["ReceiptHandle"]
    reply = await client.sqs("DeleteMessage", QueueUrl=url, ReceiptHandle=receipt)
    assert (reply.status, reply.body) == (200, b"")
    await asyncio.sleep(60)
    assert (await client.sqs("ReceiveMessage", QueueUrl=url)).json == {}


async def test_a_long_poll_returns_when_a_message_comes(client):
    loop = asyncio.get_running_loop()
    url = await made(client)
    polls = [
        asyncio.create_task(client.sqs("ReceiveMessage", QueueUrl=url, WaitTimeSeconds=20))
        for _ in range(2)
    ]
    await asyncio.sleep(5)
    await client.sqs("SendMessage", QueueUrl=url, MessageBody="1", DelaySeconds=3)
    begun = loop.time()
    [first] = (await polls[0]).json["Messages"]
    assert loop.time() - begun == pytest.approx(3)
    assert first["Body"] == "1"
    assert (await polls[1]).json == {}
    assert loop.time() - begun == pytest.approx(15)


async def test_what_is_not_deleted_comes_again(client):
    url = await made(client, VisibilityTimeout="10")
    await client.sqs("SendMessage", QueueUrl=url, MessageBody="1")
    loop = asyncio.get_running_loop()
    begun = loop.time()
    receipts = []
    for _ in range(2):
        reply = await client.sqs(
            "ReceiveMessage", QueueUrl=url, WaitTimeSeconds=20, AttributeNames=["All"]
        )
        [message] = reply.json["Messages"]
        receipts.append(message["ReceiptHandle"])
    assert loop.time() - begun == pytest.approx(10)
    assert message["Attributes"]["ApproximateReceiveCount"] == "2"
    assert receipts[0] != receipts[1]
    change = {"QueueUrl": url, "ReceiptHandle": receipts[1], "VisibilityTimeout": 0}
    assert (await client.sqs("ChangeMessageVisibility", **change)).status == 200
    assert (await client.sqs("ReceiveMessage", QueueUrl=url)).json["Messages"]


async def test_batches_succeed_and_fail_entry_by_entry(client):
    url = await made(client)
    entries = [{"Id": str(index), "MessageBody": str(index)} for index in range(10)]
    sent = (await client.sqs("SendMessageBatch", QueueUrl=url, Entries=entries)).json
    assert len(sent["Successful"]) == 10
    got = (await client.sqs("ReceiveMessage", QueueUrl=url, MaxNumberOfMessages=10)).json
    assert [message["Body"] for message in got["Messages"]] == [str(n) for n in range(10)]
    entries = [
        {"Id": message["Body"], "ReceiptHandle": message["ReceiptHandle"]}
        for message in got["Messages"][:9]
    ]
    entries.append({"Id": "bad", "ReceiptHandle": "nonsense"})
    done = (await client.sqs("DeleteMessageBatch", QueueUrl=url, Entries=entries)).json
    assert len(done["Successful"]) == 9
    [failed] = done["Failed"]
    assert (failed["Id"], failed["Code"]) == ("bad", "ReceiptHandleIsInvalid")
    shown = await client.sqs("GetQueueAttributes", QueueUrl=url, AttributeNames=["All"])
    attributes = shown.json["Attributes"]
    assert attributes["ApproximateNumberOfMessagesNotVisible"] == "1"
    assert attributes["QueueArn"] == "arn:aws:sqs:eu-west-1:123456789012:q"
    assert (await client.sqs("PurgeQueue", QueueUrl=url)).status == 200


async def test_destination_records_arrive_in_the_queue_of_their_arn(start):
    text = ACCOUNTS.replace("duration_s = 2\n[accounts.fc]", 'on_success = "ends"\n[accounts.fc]')
    client = await start(text)
    url = f"{client.emulator.url}/123456789012/ends"
    event = await client.event(body={"n": 1})
    reply = await client.sqs("ReceiveMessage", QueueUrl=url, WaitTimeSeconds=20)
    [message] = reply.json["Messages"]
    assert event.headers["x-amzn-RequestId"] in message["Body"]


@pytest.mark.parametrize(
    ("operation", "fields", "code"),
    [
        ("GetQueueUrl", {"QueueName": "none"}, "QueueDoesNotExist"),
        ("SendMessage", {"QueueUrl": "http://x/1/none", "MessageBody": "x"}, "QueueDoesNotExist"),
        ("SendMessage", {"MessageBody": "x"}, "MissingParameter"),
        ("SendMessage", {"QueueUrl": "$", "MessageBody": ""}, "MissingParameter"),
        ("SendMessage", {"QueueUrl": "$", "MessageBody": "x" * 1048577}, "InvalidParameterValue"),
        ("CreateQueue", {"QueueName": "a.fifo"}, "InvalidParameterValue"),
        (
            "CreateQueue",
            {"QueueName": "b", "Attributes": {"DelaySeconds": "901"}},
            "InvalidAttributeValue",
        ),
        ("ReceiveMessage", {"QueueUrl": "$", "MaxNumberOfMessages": 11}, "InvalidParameterValue"),
        ("ReceiveMessage", {"QueueUrl": "$", "WaitTimeSeconds": 21}, "InvalidParameterValue"),
        ("DeleteMessage", {"QueueUrl": "$", "ReceiptHandle": "x"}, "ReceiptHandleIsInvalid"),
        ("DeleteMessageBatch", {"QueueUrl": "$", "Entries": []}, "EmptyBatchRequest"),
        (
            "DeleteMessageBatch",
            {"QueueUrl": "$", "Entries": [{}] * 11},
            "TooManyEntriesInBatchRequest",
        ),
        (
            "ChangeMessageVisibility",
            {"QueueUrl": "$", "ReceiptHandle": "x/1", "VisibilityTimeout": 1},
            "MessageNotInflight",
        ),
        ("Dance", {"QueueUrl": "$"}, "UnknownOperationException"),
    ],
)
async def test_refusals_have_the_modelled_shape(client, operation, fields, code):
    url = await made(client)
    fields = {name: url if value == "$" else value for name, value in fields.items()}
    reply = await client.sqs(operation, **fields)
    assert reply.status == 400
    assert reply.json["__type"] == f"com.amazonaws.sqs#{code}"
    assert reply.json["message"]
    assert reply.headers["x-amzn-query-error"].endswith(";Sender")


async def test_broken_json_is_refused(client):
    reply = await client("POST", "/", b"{", X_Amz_Target="AmazonSQS.ListQueues")
    assert (reply.status, reply.json["__type"]) == (400, "com.amazonaws.sqs#SerializationException")


async def test_queues_can_be_listed_and_deleted(client):
    url = await made(client)
    listed = (await client.sqs("ListQueues", QueueNamePrefix="q")).json
    assert listed["QueueUrls"] == [url]
    poll = asyncio.create_task(client.sqs("ReceiveMessage", QueueUrl=url, WaitTimeSeconds=20))
    await asyncio.sleep(1)
    await client.sqs("DeleteQueue", QueueUrl=url)
    assert (await poll).json == {}
    assert (await client.sqs("ListQueues", QueueNamePrefix="q")).json["QueueUrls"] == []

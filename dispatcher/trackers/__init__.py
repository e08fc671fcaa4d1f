"""
How the dispatcher learns that a function has ended, where no reply says so.

`fc_tasks` asks Function Compute about its asynchronous tasks, `sqs_destinations` reads what
Lambda writes to a queue; both are `Tracker`s. `callback` and `duration` hold the rules for
news that others bring, and for estimates where there is no news.
"""

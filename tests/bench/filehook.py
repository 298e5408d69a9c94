"""A file hook of tusd: an executable that is started for each event, and asks the service of `tests.bench.hooks`.

tusd writes the event to its stdin and reads the answer from its stdout. Source: tusd's documentation, File Hooks.
"""

import json
import os
import sys

import requests

asked = json.load(sys.stdin)
(code,) = asked["Event"]["HTTPRequest"]["Header"].get("Dropoff-Code", [""])
answer = requests.post(os.environ["BENCH_HOOKS_URL"], json=asked, headers={"Dropoff-Code": code}, timeout=60)
answer.raise_for_status()
sys.stdout.write(answer.text)

"""The page at /d/<id>: for now a text on how to upload with a script. The same for known and unknown drop-offs."""

import html
import json

from aiohttp import web

from dropoff_tus import wire
from dropoff_tus.ids import is_drop_id
from dropoff_tus.policy import window_state
from server.clock import SystemClock
from server.http.appkeys import AUTH, CONFIG, ROUTE
from server.http.forwarded import base_url, client_of

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="robots" content="noindex"><title>Upload files</title></head><body><main>
<h1>Upload files</h1>
<p>This address receives files. You need the code that came with it. Whatever you send is encrypted before it is stored,
and cannot be read back from here.</p>
<p>The upload page is not installed on this server. Until it is, any tus client can upload to</p>
<pre>{url}/</pre>
<p>with the code in the header <code>Dropoff-Code</code>. For example with Python and tuspy:</p>
<pre>from tusclient import client
file = "FILE"
tus = client.TusClient("{url}/", headers={{"Dropoff-Code": "YOUR-CODE"}})
tus.uploader(file, chunk_size=64 * 2**20, metadata={{"filename": file}}).upload()</pre>
<p>or with curl, for one small file, in its folder:</p>
<pre>file=FILE
curl -gi --fail-with-body -X POST "{url}" -H 'Tus-Resumable: 1.0.0' -H 'Dropoff-Code: YOUR-CODE' \\
  -H "Upload-Metadata: filename $(printf %s "$file" | base64 | tr -d '\\n')" \\
  -H "Upload-Length: $(wc -c &lt; "$file")" -H 'Content-Type: application/offset+octet-stream' -T "./$file"</pre>
<p>An upload that breaks off can be resumed: ask its address with HEAD where it stands, and send the rest.</p>
</main></body></html>
"""


async def page(request: web.Request) -> web.Response:
    """Show how to upload."""
    request[ROUTE] = "page"
    drop_id = request.match_info["drop_id"]
    shown = drop_id if is_drop_id(drop_id) else "UNKNOWN"
    config = request.app[CONFIG]
    base = base_url(request, config.server.public_url, config.server.trusted_proxies)
    # Behind a slash curl would put the name of the file that it sends.
    url = html.escape(f"{base}/files/{shown}")
    return web.Response(text=_PAGE.format(url=url), content_type="text/html", headers=SECURITY_HEADERS)


async def info(request: web.Request) -> web.Response:
    """Say what the drop-off takes, to whoever has the code."""
    request[ROUTE] = "info"
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers]
    client = client_of(request, request.app[CONFIG].server.trusted_proxies)
    code = wire.presented_code(headers)
    grant = await request.app[AUTH].grant_slowly(request.match_info["drop_id"], code, client)
    drop = grant.dropoff
    answer = {
        "id": drop.id,
        "name": drop.name,
        "recipient": None,
        "contact": drop.contact or None,
        "retain_seconds": drop.retain_seconds or None,
        "state": window_state(drop, SystemClock().now()),
        "mode": drop.policy.mode.value,
        "expires_at": drop.expires_at.isoformat() if drop.expires_at else None,
        "limits": {
            "max_upload_bytes": drop.limits.max_upload_bytes,
            "max_total_bytes": drop.limits.max_total_bytes,
            "max_uploads": drop.limits.max_uploads,
            "allowed_types": list(drop.limits.allowed_types),
            "name_patterns": list(drop.limits.name_patterns),
        },
    }
    secure = {**SECURITY_HEADERS, "Content-Security-Policy": "default-src 'none'"}
    return web.Response(text=json.dumps(answer), content_type="application/json", headers=secure)

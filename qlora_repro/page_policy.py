"""Pages that hold all they need: a policy under which a browser fetches nothing."""

import base64
import hashlib
import re


def content_security_policy(source: str, *, pictures: bool = False) -> str:
    """Return the content security policy of a page or of its template.

    Its own script and style run, told by their sha256, and nothing else; no text in the page can
    become a script. pictures: whether those written into the page are shown.
    """
    allowed = {
        name: base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        for name, body in re.findall(r"<(style|script)>(.*?)</\1>", source, re.DOTALL)
    }
    rules = [f"{name}-src 'sha256-{digest}'" for name, digest in allowed.items()]
    shown = ["img-src data:"] if pictures else []
    return "; ".join(
        ["default-src 'none'", *shown, *rules, "base-uri 'none'", "form-action 'none'"]
    )

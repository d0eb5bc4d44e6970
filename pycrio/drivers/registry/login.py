"""Authorization at one registry for one repository: basic, or bearer tokens that are cached and renewed.

Token protocol: distribution's token authentication (GET) and its OAuth2 form (POST with a refresh token).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from urllib.parse import urlencode, urlsplit

from pycrio.drivers.registry.auth import Secret
from pycrio.drivers.registry.challenge import Challenge, parse_challenges, parse_token
from pycrio.drivers.registry.transport import Transport, read_bounded, refusal
from pycrio.drivers.registry.trouble import Trouble

# A token is renewed this long before its end, so that it does not expire on its way.
MARGIN = 5.0
# A token service gets this many seconds for a whole answer, however slowly it drips.
SECONDS = 60.0


class Login:
    """What to put into Authorization headers. Shared by the transfers of a repository."""

    def __init__(
        self,
        transport: Transport,
        secret: Secret,
        path: str,
        *,
        insecure: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._secret = secret
        self._scope = f"repository:{path}:pull"
        self._insecure = insecure
        self._clock = clock
        self._turn = asyncio.Lock()
        self._basic = False
        self._token = secret.registry_token
        self._until = float("inf") if secret.registry_token else 0.0
        self._challenge: Challenge | None = None

    async def header(self) -> str:
        """The value to send now, "" for none yet; renews a token that is about to expire."""
        if self._basic:
            return self._secret.basic
        if self._challenge is not None and self._clock() >= self._until - MARGIN:
            async with self._turn:
                if self._clock() >= self._until - MARGIN:
                    await self._fetch(self._challenge)
        return f"Bearer {self._token}" if self._token else ""

    async def accept(self, sent: str, challenges: Sequence[str]) -> bool:
        """React to a 401 that followed the header ``sent``: True when the request should be repeated."""
        async with self._turn:
            if self.current() != sent:
                return True  # another transfer has renewed it meanwhile
            parsed = parse_challenges(challenges)
            bearer = next((c for c in parsed if c.scheme == "bearer" and c.params.get("realm")), None)
            if bearer is not None and not self._secret.registry_token:
                await self._fetch(bearer)
                return True
            if any(c.scheme == "basic" for c in parsed) and self._secret.username and not self._basic:
                self._basic, self._token = True, ""
                return True
            return False

    def current(self) -> str:
        """The present header value, without renewal."""
        if self._basic:
            return self._secret.basic
        return f"Bearer {self._token}" if self._token else ""

    async def _fetch(self, challenge: Challenge) -> None:
        """Get a token from the service that a challenge names."""
        realm = challenge.params["realm"]
        service = challenge.params.get("service", "")
        scopes = list(dict.fromkeys(filter(None, (self._scope, challenge.params.get("scope", "")))))
        if urlsplit(realm).scheme not in ("http", "https") or not urlsplit(realm).hostname:
            raise Trouble("protocol", f"the registry's token service {realm[:200]!r} is no HTTP address")
        secret = self._secret
        headers: dict[str, str] = {}
        form: dict[str, str] | None = None
        url = realm
        if secret.identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": secret.identity_token,
                "client_id": "pycrio",
                "scope": " ".join(scopes),
                "service": service,
            }
        else:
            query = [("service", service)] if service else []
            query += [("scope", scope) for scope in scopes]
            if secret.username:
                query.append(("account", secret.username))
                headers["Authorization"] = secret.basic
            url = realm + ("&" if urlsplit(realm).query else "?") + urlencode(query)
        body = await self._ask(url, headers, form)
        try:
            token, life = parse_token(body)
        except ValueError as error:
            raise Trouble("protocol", f"the token service {urlsplit(realm).netloc} gave no token ({error})") from None
        self._token, self._until, self._challenge = token, self._clock() + life, challenge

    async def _ask(self, url: str, headers: dict[str, str], form: dict[str, str] | None) -> bytes:
        where = urlsplit(url).netloc
        try:
            return await asyncio.wait_for(self._answer(url, headers, form), SECONDS)
        except (asyncio.TimeoutError, TimeoutError):
            raise Trouble("stalled", f"the token service {where} did not answer within {SECONDS:.0f} s") from None
        except Trouble as trouble:
            code = trouble.code or ("UNAUTHORIZED" if trouble.status in (400, 401, 403) else "")
            text = f"the token service {where} refuses: {trouble.text}" if trouble.kind == "status" else trouble.text
            raise Trouble(trouble.kind, text, trouble.status, code, trouble.delay) from trouble

    async def _answer(self, url: str, headers: dict[str, str], form: dict[str, str] | None) -> bytes:
        async with self._transport.exchange(url, headers, insecure=self._insecure, form=form) as response:
            if response.status != 200:
                raise await refusal(response, 65536)
            return await read_bounded(response, 1 << 20, "the token service's answer")

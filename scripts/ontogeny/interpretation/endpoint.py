"""Questions to a server that speaks OpenAI's protocol."""

import asyncio
import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Annotated, NamedTuple, Self
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, Field, ValidationError

from ontogeny.config.interpretation import InterpretationSettings
from ontogeny.errors import UserError, first_line
from ontogeny.interpretation.cache import Answer, request
from ontogeny.interpretation.prompts import Message

BACKOFF = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Seconds between attempts, where the server does not say how long to wait."""

LONGEST_WAIT = 300.0
"""Seconds that are waited at most because a server says so."""

BUSY = (408, 409, 425, 429)
"""Statuses after which a request is made again, beside those from 500 on."""

QUOTED = 200
"""Characters of a server's own words that are quoted."""


class Delay(NamedTuple):
    """A request that may succeed later."""

    reason: str
    """What happened."""
    seconds: float | None
    """How long the server asks to wait, if it does."""


class _Text(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Text
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(BaseModel):
    """What is read of the server's answer."""

    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: _Usage | None = None


class Endpoint:
    """A server, asked for chat completions; to be used in `async with`."""

    def __init__(self, settings: InterpretationSettings, key: str | None) -> None:
        self._settings = settings
        self._key = key
        self._url = f"{settings.endpoint}/chat/completions"
        self._answered = False
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._client = httpx.AsyncClient(headers=headers, timeout=settings.timeout)

    def readable_key(self) -> str | None:
        """Say, where it is so, that others can read the key on its way: over plain http to another machine."""
        parts = urlsplit(self._url)
        host = parts.hostname or ""
        try:
            is_here = ip_address(host).is_loopback
        except ValueError:
            is_here = host == "localhost" or host.endswith(".localhost")
        if self._key is None or parts.scheme != "http" or is_here:
            return None
        return (
            f"interpretation.endpoint: the key that {self._settings.key} holds goes to {parts.netloc} over plain http, "
            "where others on the way can read it; use https if the server speaks it"
        )

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.aclose()

    async def ask(self, messages: Sequence[Message]) -> Answer:
        """Ask a question; again, after a while, where the server is busy, fails or is silent, or is gone after answers.

        Raises:
            UserError: the server cannot be reached, refuses the question, or goes on failing.
        """
        body = request(self._settings, messages)
        outcome = await self._attempt(body)
        for wait in BACKOFF:
            if isinstance(outcome, Answer):
                return outcome
            seconds = wait if outcome.seconds is None else outcome.seconds
            if seconds > LONGEST_WAIT:
                break
            await asyncio.sleep(seconds)
            outcome = await self._attempt(body)
        if isinstance(outcome, Answer):
            return outcome
        asked = "" if outcome.seconds is None else f" and asks to wait {outcome.seconds:.0f} s"
        raise self._error(f"{outcome.reason}{asked}; answers so far are kept, so run again later")

    async def _attempt(self, body: dict[str, object]) -> Answer | Delay:
        seconds = self._settings.timeout
        try:
            async with asyncio.timeout(seconds):
                response = await self._client.post(self._url, json=body)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            problem = f"the server cannot be reached ({first_line(error)})"
            if self._answered:
                return Delay(problem, None)
            raise self._error(f"{problem}; is it running there?") from None
        except (TimeoutError, httpx.TimeoutException):
            return Delay(f"there was no answer within {seconds:g} s (interpretation.timeout)", None)
        except (httpx.InvalidURL, UnicodeError) as error:
            raise self._error(f"this is no address ({first_line(error)}); check interpretation.endpoint") from None
        except httpx.RequestError as error:
            return Delay(f"the connection broke ({first_line(error)})", None)
        if response.status_code in BUSY or response.status_code >= 500:
            return Delay(f"the server answers {self._said(response)}", _retry_after(response))
        if not response.is_success:
            raise self._refused(response)
        answer = self._read(response)
        self._answered = True
        return answer

    def _read(self, response: httpx.Response) -> Answer:
        try:
            completion = _Completion.model_validate_json(response.content)
        except ValidationError:
            raise self._error("what the server answers is no chat completion; expected OpenAI's protocol") from None
        usage = completion.usage or _Usage()
        choice = completion.choices[0]
        return Answer(
            text=choice.message.content or "",
            input_tokens=usage.prompt_tokens,
            output_tokens=usage.completion_tokens,
            finish_reason=choice.finish_reason,
        )

    def _refused(self, response: httpx.Response) -> UserError:
        status = response.status_code
        if status in (401, 403):
            name = self._settings.key
            mend = f"check what {name} holds" if name else "interpretation.key names the variable that holds one"
            return self._error(f"the server wants another key ({status}); {mend}")
        if status == 404:
            return self._error(
                f"the server knows no such address or no model {self._settings.model!r} ({self._said(response)}); "
                "check interpretation.endpoint and interpretation.model"
            )
        return self._error(f"the server refuses the question ({self._said(response)})")

    def _said(self, response: httpx.Response) -> str:
        """Quote a server in one line, without the key that it may repeat."""
        words = " ".join(response.text.split())
        if self._key:
            words = words.replace(self._key, "...")
        return f"{response.status_code} {words}"[:QUOTED].strip()

    def _error(self, what: str) -> UserError:
        return UserError(f"interpretation.endpoint: {self._url}: {what}")


def _retry_after(response: httpx.Response) -> float | None:
    """Read the seconds of a header `Retry-After`, which are told as a number or as a date."""
    told = response.headers.get("Retry-After")
    if told is None:
        return None
    try:
        seconds = float(told) if told.strip().isdigit() else parsedate_to_datetime(told).timestamp() - time.time()
    except ValueError:
        return None
    return max(seconds, 0.0)

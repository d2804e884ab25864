"""What a caller may say in a chat completion, field by field; all else is refused.

A list of what is allowed, since servers grow extensions by the month and each of them may steer or
reveal the system prompt: template arguments, raw prompts, ``logit_bias``, ``echo``, grammars that
put the first words into the model's mouth. Nothing that a caller sent is passed on as it was: what
is allowed is read into these types, and the upstream's request is written from them.

Fields that cannot matter here (``user``, ``metadata``) are accepted and dropped, so that clients
need no change. Fields that would matter are accepted only with the value that means "not used".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from cosalign.serving.refusals import Refusal
from cosalign.serving.tenants import Limits

INT64 = 2**63
_STOPS, _STOP_LENGTH = 4, 256
_ROLES = "user and assistant"
_FIELDS = 64
"""Of one object: an unknown one among them is a finding each."""


class _Strict(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    @model_validator(mode="before")
    @classmethod
    def _few_fields(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > _FIELDS:
            raise PydanticCustomError("too_many_fields", f"at most {_FIELDS} fields are taken")
        return value


class TextPart(_Strict):
    """A piece of a content; pictures and sound are not taken."""

    type: Literal["text"]
    text: str


# A list is read up to its first mistake: tens of thousands of findings would take a second, in
# which nobody is answered.
Content = str | Annotated[list[TextPart], Field(fail_fast=True)]


class UserMessage(_Strict):
    """What the end user said."""

    role: Literal["user"]
    content: Content


class AssistantMessage(_Strict):
    """An earlier answer, as clients send them back: with fields that were null."""

    role: Literal["assistant"]
    content: Content
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None


class StreamOptions(_Strict):
    """How a stream is sent."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class TextFormat(_Strict):
    """The only form of answers: a grammar would decide how they begin."""

    type: Literal["text"]


Message = Annotated[UserMessage | AssistantMessage, Field(discriminator="role")]
Stop = Annotated[str, Field(min_length=1, max_length=_STOP_LENGTH)]
Nothing = Annotated[list[Any], Field(max_length=0)] | None


class ChatRequest(_Strict):
    """A chat completion request, as far as it is allowed."""

    model: str
    messages: list[Message] = Field(min_length=1, fail_fast=True)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    seed: int | None = Field(default=None, ge=-INT64, lt=INT64)
    stop: Stop | Annotated[list[Stop], Field(max_length=_STOPS)] | None = None
    n: int | None = Field(default=None, ge=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # Accepted and dropped.
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, Any] | None = None
    service_tier: Literal["auto", "default"] | None = None
    parallel_tool_calls: bool | None = None
    # Accepted where they say that the thing is not used.
    store: Literal[False] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    tools: Nothing = None
    tool_choice: Literal["none"] | None = None
    response_format: TextFormat | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None

    @property
    def conversation(self) -> list[tuple[str, str]]:
        """Roles and contents."""
        return [(message.role, _content(message.content)) for message in self.messages]

    @property
    def choices(self) -> int:
        """How many answers are wanted."""
        return self.n or 1

    @property
    def wants_usage(self) -> bool:
        """Whether a stream shall end with the count of tokens."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def sampling(self) -> dict[str, Any]:
        """What the upstream is told of sampling; only what was asked for."""
        given = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "seed": self.seed,
            "stop": self.stop,
            "n": self.n,
        }
        return {name: value for name, value in given.items() if value is not None}

    def longest_answer(self, limit: int) -> int:
        """Tokens that an answer may have."""
        asked = [n for n in (self.max_tokens, self.max_completion_tokens) if n is not None]
        return min(limit, *asked) if asked else limit


def _content(content: str | list[TextPart]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def parse_chat_request(body: bytes, model_name: str, limits: Limits) -> ChatRequest:
    """Reads a request.

    Args:
        body: The bytes that were sent.
        model_name: The one model.
        limits: The tenant's.

    Raises:
        Refusal: It is not JSON, or something in it is not allowed.
    """
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as problem:
        raise _refused(problem.errors(include_url=False, include_input=False)[0]) from None
    _check_limits(request, limits)
    if request.model != model_name:
        raise Refusal(
            "model_not_found", f"the only model here is {model_name!r}; ask for that", "model"
        )
    if request.messages[-1].role != "user":
        raise Refusal(
            "role_not_allowed",
            "the last message must be the user's: an answer cannot be begun for the model",
            "messages",
        )
    return request


def _check_limits(request: ChatRequest, limits: Limits) -> None:
    if len(request.messages) > limits.messages:
        raise Refusal(
            "invalid_value", f"at most {limits.messages} messages are taken", param="messages"
        )
    if request.choices > limits.choices:
        raise Refusal("invalid_value", f"n may be {limits.choices} at the most", param="n")


def _refused(finding: Any) -> Refusal:
    """From pydantic's first finding to a refusal; it names fields, never values."""
    kind, where = str(finding["type"]), _path(finding["loc"])
    field = str(finding["loc"][0]) if finding["loc"] else None
    if kind == "json_invalid":
        return Refusal("invalid_json", "the body is not JSON in UTF-8")
    if kind.startswith("union_tag"):
        return Refusal(
            "role_not_allowed",
            f"{where}: only the roles {_ROLES} may be sent; the system prompt is the provider's",
            "messages",
        )
    if kind == "extra_forbidden":
        return Refusal("unknown_parameter", f"{where}: not a parameter here", where)
    if field in _UNUSED:
        return Refusal("unsupported_parameter", f"{where}: not supported here; leave it out", where)
    return Refusal("invalid_value", f"{where or 'the body'}: {_said(kind, finding)}", where or None)


def _said(kind: str, finding: Any) -> str:
    return "required, and missing" if kind == "missing" else str(finding["msg"])


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier() and part not in _TYPES:
            path += f".{part}" if path else part
    return path[:_STOP_LENGTH]


_UNUSED = frozenset(
    {"store", "logprobs", "top_logprobs", "logit_bias", "tools", "tool_choice", "response_format",
     "modalities"}
)  # fmt: skip
_TYPES = frozenset({"str", "int", "float", "bool", "user", "assistant"})

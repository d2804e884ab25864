"""Chat templates in the manner of several families, and of corners that exports must survive."""

from __future__ import annotations

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# A default system message where there is none, and a line break inside a literal.
SMOLLM2 = """\
{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
{{ '<|im_start|>system
You are a helpful assistant<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}
"""
# Takes the system message off the list, sets a default, and trims.
LLAMA3 = """\
{{- '<|begin_of_text|>' }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}

{#- This block takes the system message. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}

{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{{- "Today: " + date_string + "\n\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""
# A macro that reads the messages, tools, a namespace, and a switch of its own.
QWEN = """\
{%- macro opening(role) -%}
    {{- '<|im_start|>' ~ role ~ '\n' -}}
{%- endmacro -%}
{%- set ns = namespace(last=messages|length - 1) %}
{%- if tools %}
    {{- opening('system') }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\n\n' }}{%- endif %}
    {{- '# Tools\n' }}
    {%- for tool in tools %}{{- tool | tojson }}{%- endfor %}
    {{- '<|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}
    {{- opening('system') + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if message.role == 'user' and index == ns.last %}{%- set ns.last = index %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role != 'system' %}
        {{- opening(message.role) + message.content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- opening('assistant') }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}"""
# The system message goes into the last user turn; roles must alternate.
MISTRAL = """\
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- "<s>" }}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (loop.index0 % 2 == 0) %}
        {{- raise_exception("Conversation roles must alternate user/assistant/user/...") }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\n\n" + message["content"] + " [/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + " [/INST]" }}
        {%- endif %}
    {%- else %}
        {{- " " + message["content"] | trim + "</s>" }}
    {%- endif %}
{%- endfor %}"""
ADJACENT = "{% for m in messages %}{{ '<s>' + m['content'] + '</s>' }}{% endfor %}{{ '<s>' }}"
# White space at the start, which a careless preamble would eat or let through.
LEADING_NEWLINE = "\n" + CHATML
LEADING_BLANKS = "  " + CHATML
LEADING_TEXT = "  \n \tHello. " + CHATML
WINDOWS = CHATML.replace("{% for", "\r\n{% for", 1) + "\r\n"

TEMPLATES = {
    "chatml": ("chatml", CHATML),
    "smollm2": ("chatml", SMOLLM2),
    "qwen": ("chatml", QWEN),
    "leading newline": ("chatml", LEADING_NEWLINE),
    "leading blanks": ("chatml", LEADING_BLANKS),
    "leading text": ("chatml", LEADING_TEXT),
    "windows": ("chatml", WINDOWS),
    "llama3": ("llama3", LLAMA3),
    "mistral": ("sentencepiece", MISTRAL),
    "unigram": ("unigram", ADJACENT),
}
"""By name: the tokenizer family that speaks it, and the template."""

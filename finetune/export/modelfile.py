"""Ollama's Modelfile: the chat template in Ollama's language, the system prompt, stop words and sampling.

Ollama lays a conversation out by TEMPLATE and ignores the template in the GGUF. Both give the same text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from common.errors import UserError
from common.i18n import _

NAME = "Modelfile"
# The sampling of the proof, of infer.sh and of serve.sh.
SAMPLING = {"temperature": 0.0, "repeat_penalty": 1.0}
MAX_TOKENS = 2048

# Go's text/template. Ollama fills in .System, .Tools and .Messages (with .Role, .Content and .ToolCalls). The last
# branch is for its older API, which has only .Prompt.
TEMPLATE = """\
{{- if .Messages }}
{{- if .Tools }}<|im_start|>system
{{ .System }}

# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{{- range .Tools }}
{"type": "function", "function": {{ .Function }}}
{{- end }}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|im_end|>
{{ else if .System }}<|im_start|>system
{{ .System }}<|im_end|>
{{ end }}
{{- $before := "" }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if and (eq $before "tool") (ne .Role "tool") }}<|im_end|>
{{ end }}
{{- if eq .Role "user" }}<|im_start|>user
{{ .Content }}<|im_end|>
{{ else if eq .Role "assistant" }}<|im_start|>assistant
{{- if or .Content (not .ToolCalls) }}
{{ .Content }}
{{- end }}
{{- range .ToolCalls }}
<tool_call>
{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
</tool_call>
{{- end }}
{{- if not $last }}<|im_end|>
{{ end }}
{{- else if eq .Role "tool" }}
{{- if ne $before "tool" }}<|im_start|>user
{{- end }}
<tool_response>
{{ .Content }}
</tool_response>
{{- if $last }}<|im_end|>
{{ end }}
{{- end }}
{{- if and $last (ne .Role "assistant") }}<|im_start|>assistant
{{ end }}
{{- $before = .Role }}
{{- end }}
{{- else }}
{{- if .System }}<|im_start|>system
{{ .System }}<|im_end|>
{{ end }}{{ if .Prompt }}<|im_start|>user
{{ .Prompt }}<|im_end|>
{{ end }}<|im_start|>assistant
{{ .Response }}
{{- if .Response }}<|im_end|>{{ end }}
{{- end }}"""


def text(file: str, system: str, stops: Sequence[str], licence: str = "Apache-2.0") -> str:
    """The text of a Modelfile.

    Args:
        file: The GGUF's name, in the same folder.
        system: The system prompt.
        stops: The stop words.
        licence: The licence, for a reader.

    Raises:
        UserError: The system prompt has three quotation marks in a row, which a Modelfile cannot express.
    """
    if '"""' in system:
        raise UserError(
            _(
                'export: the system prompt contains three quotation marks in a row ("""), which a Modelfile '
                "cannot hold; give another with --system TEXT"
            )
        )
    lines = [f"FROM ./{file}", f'TEMPLATE """{TEMPLATE}"""']
    if system:
        lines.append(f'SYSTEM """{system}"""')
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    lines += [f"PARAMETER {name} {value:g}" for name, value in SAMPLING.items()]
    lines += [f"PARAMETER num_predict {MAX_TOKENS}", f'LICENSE "{licence}, see the file LICENSE"', ""]
    return "\n".join(lines)


def faults(found: str, file: str, system: str, stops: Sequence[str]) -> list[str]:
    """What is missing or wrong in the Modelfile text `found`, a sentence each. See `text` for the arguments."""
    wrong = []
    said = {match[1] for match in re.finditer(r'^PARAMETER stop "(.*)"$', found, re.MULTILINE)}
    wrong += [
        _("{name}: the stop word {stop} is missing").format(name=NAME, stop=stop) for stop in stops if stop not in said
    ]
    if f'TEMPLATE """{TEMPLATE}"""' not in found:
        wrong.append(_("{name}: the template differs from the training's").format(name=NAME))
    if system and f'SYSTEM """{system}"""' not in found:
        wrong.append(_("{name}: the system prompt differs from the training's").format(name=NAME))
    if not found.startswith(f"FROM ./{file}\n"):
        wrong.append(_("{name}: it does not name {file}").format(name=NAME, file=file))
    return wrong

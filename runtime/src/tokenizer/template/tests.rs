//! Do templates in the styles that are published render as they do in Python, and are hostile ones stopped?

use super::*;
use serde_json::json;

fn render_with(source: &str, change: impl FnOnce(&mut Conversation)) -> Result<String, TokenizerError> {
    let now = OffsetDateTime::from_unix_timestamp(1_722_000_000).expect("26 July 2024");
    let mut conversation = Conversation::new(json!([{"role": "user", "content": "Hi"}]), now);
    change(&mut conversation);
    ChatTemplate::parse(source, "<s>", "</s>")?.render(&conversation)
}

fn render(source: &str, messages: serde_json::Value) -> Result<String, TokenizerError> {
    render_with(source, |conversation| conversation.messages = messages)
}

/// In the style of Llama 3: header and end-of-turn tokens, a date, trimmed contents.
const HEADERS: &str = r"{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now('%d %b %Y') %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = '' %}
{%- endif %}
{{- '<|sys|>Today: ' + date_string + '\n' + system_message + '<|eot|>' }}
{%- for message in messages %}
    {{- '<|' + message.role + '|>' + message['content'] | trim + '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}
";

/// In the style of Qwen: tools as JSON lines, tool calls, a namespace and a reversed walk.
const TOOLS: &str = r##"{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {{- "# Tools\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools><|im_end|>\n" }}
{%- endif %}
{%- set ns = namespace(last=-1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.last < 0 and message.role == "user" and message.content is string %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "assistant" and message.tool_calls %}
        {{- '<|im_start|>' + message.role }}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\n<tool_call>\n{"name": "' + tool_call.name + '", "arguments": ' }}
            {{- tool_call.arguments if tool_call.arguments is string else tool_call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "assistant" and '</think>' in message.content %}
        {{- '<|im_start|>assistant\n' + message.content.split('</think>')[-1].lstrip('\n') + '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{{- ns.last }}
"##;

/// In the style of Mistral: roles must alternate.
const ALTERNATING: &str = r"{{ bos_token }}{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{% endif %}
{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}
{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}{% endif %}
{% endfor %}";

#[test]
fn does_a_template_with_headers_and_a_date_render() {
    let messages = json!([{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "Hi\n"}]);
    let expected = "<s><|sys|>Today: 26 Jul 2024\nBe brief.<|eot|><|user|>Hi<|eot|><|assistant|>";
    assert_eq!(render(HEADERS, messages).expect("renders"), expected);
}

#[test]
fn does_a_template_with_tools_render() {
    let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {"b": 1, "a": "<é>"}}}]);
    let messages = json!([
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1.0}}}]},
        {"role": "assistant", "content": "<think>hm</think>\n\nok"},
    ]);
    let expected = concat!(
        "<|im_start|>system\n# Tools\n<tools>\n",
        r#"{"type": "function", "function": {"name": "f", "parameters": {"b": 1, "a": "<é>"}}}"#,
        "\n</tools><|im_end|>\n<|im_start|>user\ngo<|im_end|>\n<|im_start|>assistant\n<tool_call>\n",
        r#"{"name": "f", "arguments": {"x": 1.0}}"#,
        "\n</tool_call><|im_end|>\n<|im_start|>assistant\nok<|im_end|>\n0"
    );
    let rendered = render_with(TOOLS, |conversation| {
        conversation.tools = tools;
        conversation.messages = messages;
    });
    assert_eq!(rendered.expect("renders"), expected);
}

#[test]
fn does_a_refusal_come_back_in_the_templates_words() {
    let turn = |role: &str| json!({"role": role, "content": "x"});
    let sound = render(ALTERNATING, json!([turn("user"), turn("assistant"), turn("user")])).expect("alternates");
    // A line break is trimmed after a block, not after an expression.
    assert_eq!(sound, "<s>[INST] x [/INST]\nx</s>[INST] x [/INST]\n");
    let error = render(ALTERNATING, json!([turn("user"), turn("user")])).expect_err("does not alternate").to_string();
    let words = "the model's chat template refused this conversation: Conversation roles must alternate \
                 user/assistant/user/assistant/...";
    assert_eq!(error, words);
}

#[test]
fn are_values_printed_and_methods_called_as_in_python() {
    let cases = [
        (
            "{{ true }} {{ none }} {{ [1, 'a', 2.0, false] }} {{ {'a': none} }}",
            "True None [1, 'a', 2.0, False] {'a': None}",
        ),
        ("{{ undefined_thing }}|", "|"),
        ("{{ [\"it's\", 'a\"b', 'x\\n'] }}", "[\"it's\", 'a\"b', 'x\\n']"),
        ("{{ ' xaX '.strip().upper() }}{{ 'xxaxx'.strip('x') }}{{ 'ab'.rstrip('b') }}", "XAXaa"),
        ("{{ 'a,b,c'.split(',')[1] }}{{ ' a  b '.split() | length }}{{ 'a-b-c'.split('-', 1) | last }}", "b2b-c"),
        ("{{ 'abc'.startswith(('x', 'a')) }} {{ 'abc'.endswith('b') }}", "True False"),
        (
            "{{ 'hello wORLD'.title() }} {{ 'aXa'.replace('a', 'b', 1) }} {{ ','.join(['a', 'b']) }}",
            "Hello World bXa a,b",
        ),
        ("{{ {'a': 1}.get('b') }} {{ {'a': 1}.get('b', 2) }} {{ {'a': 1}.get('a') }}", "None 2 1"),
        ("{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}{{ v }}{% endfor %}", "a1b2"),
        ("{{ {'a': 1}.keys() | list }}{{ {'a': 1}.values() | list }}", "['a'][1]"),
        ("{{ 'é<&>\"' | tojson }} {{ [1, {'a': []}] | tojson }}", "\"é<&>\\\"\" [1, {\"a\": []}]"),
        ("{{ {'b': 1, 'a': [1]} | tojson(indent=2, sort_keys=true) }}", "{\n  \"a\": [\n    1\n  ],\n  \"b\": 1\n}"),
        ("{{ [1, 2] | tojson(separators=(',', ':')) }} {{ [1e20, 1e-7, 1.5] | tojson }}", "[1,2] [1e+20, 1e-07, 1.5]"),
        ("{% for x in [1, 2, 3] %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% endfor %}", "13"),
        ("{% for x in [1, 2, 3] %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}", "1"),
        ("a\n  {% if true %}\nb\n  {% endif %}\nc", "a\nb\nc"),
        ("x {%- generation -%} y {% endgeneration %}z", "xy z"),
        ("{{ 'abc' is sequence }} {{ [] is iterable }} {{ {} is mapping }} {{ 1 is string }}", "True True True False"),
        ("{{ messages[0].content }}{{ messages[0]['nothing'] }}{{ messages[-1]['role'] }}", "Hiuser"),
        ("{{ tools is none }} {{ extra_thing | default('d') }} {{ add_generation_prompt }}", "True d True"),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m('a') }}", "<a>"),
    ];
    for (source, expected) in cases {
        match render_with(source, |_| {}) {
            Ok(rendered) => assert_eq!(rendered, expected, "{source}"),
            Err(error) => panic!("{source}: {error}"),
        }
    }
}

#[test]
fn do_extra_variables_reach_the_template_but_not_over_ours() {
    let rendered = render_with("{{ think }} {{ messages | length }}", |conversation| {
        conversation.extra.insert("think".into(), json!(false));
        conversation.extra.insert("messages".into(), json!([]));
    });
    assert_eq!(rendered.expect("renders"), "False 1");
}

#[test]
fn is_a_hostile_template_stopped() {
    let spin = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    let recurse = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
    let grow =
        "{% set ns = namespace(s='x') %}{% for a in range(27) %}{% set ns.s = ns.s.replace('x', 'xx') %}{% endfor %}";
    let print = "{% set s = 'x' * 1000000 %}{% for a in range(100) %}{{ s }}{% endfor %}";
    for (source, words) in [
        (spin, "too many steps"),
        (recurse, "recursion"),
        (grow, "grows too long"),
        (print, "more than 67108864 bytes"),
        ("{% if %}", "does not compile"),
        ("{{ raise_exception('no') }}", "refused this conversation: no"),
        ("{{ messages.nothing.nothing }}", "undefined"),
        ("{% include '/etc/passwd' %}", "refused"),
    ] {
        let error = render_with(source, |_| {}).expect_err(source).to_string();
        assert!(error.contains(words), "{source}: {error:?} does not say {words:?}");
    }
}

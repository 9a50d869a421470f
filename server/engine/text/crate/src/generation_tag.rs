//! transformers' own tag `{% generation %}`, which marks the assistant's turns for training.

/// Turns the tag into `{% with %}`, which likewise is a scope that prints what it holds. The marks `-`
/// and `+`, which decide about white space, stay. Comments and raw blocks are left as they are.
pub fn replace(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    let mut is_raw = false;
    while let Some(start) = next_opening(rest, is_raw) {
        let closing = if rest[start..].starts_with("{#") {
            "#}"
        } else {
            "%}"
        };
        let Some(length) = rest[start..].find(closing) else {
            break;
        };
        let (before, tag_on) = rest.split_at(start);
        let (tag, after) = tag_on.split_at(length + closing.len());
        out.push_str(before);
        let name = tag_name(tag);
        is_raw = if is_raw {
            name != "endraw"
        } else {
            name == "raw"
        };
        match name {
            "generation" if !is_raw => out.push_str(&renamed(tag, "with")),
            "endgeneration" if !is_raw => out.push_str(&renamed(tag, "endwith")),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Where the next tag or comment begins. A raw block has no comments.
fn next_opening(text: &str, is_raw: bool) -> Option<usize> {
    let tag = text.find("{%");
    if is_raw {
        return tag;
    }
    tag.into_iter().chain(text.find("{#")).min()
}

fn is_mark(c: char) -> bool {
    c == '-' || c == '+'
}

/// "endfor" of `{%- endfor %}`; a tag with arguments has them in its name.
fn tag_name(tag: &str) -> &str {
    tag.strip_prefix("{%")
        .and_then(|tag| tag.strip_suffix("%}"))
        .map_or("", |inner| inner.trim_matches(is_mark).trim())
}

/// The tag, which has no arguments, with another name.
fn renamed(tag: &str, name: &str) -> String {
    let inner = &tag[2..tag.len() - 2];
    let left = if inner.starts_with(is_mark) {
        &inner[..1]
    } else {
        ""
    };
    let right = if inner.ends_with(is_mark) {
        &inner[inner.len() - 1..]
    } else {
        ""
    };
    format!("{{%{left} {name} {right}%}}")
}

#[cfg(test)]
mod tests {
    use super::replace;

    #[test]
    fn keeps_marks_and_other_tags() {
        let source = "{% if a %}{%- generation -%}x{% endgeneration +%}{% endif %} {%";
        let expected = "{% if a %}{%- with -%}x{% endwith +%}{% endif %} {%";
        assert_eq!(replace(source), expected);
    }

    #[test]
    fn leaves_comments_and_raw_blocks() {
        for source in [
            "{# {% generation %} #}",
            "{% raw %}{% generation %}{# {%- endraw %}",
            "{% generation x %}",
            "{%",
            "{%}",
        ] {
            assert_eq!(replace(source), source);
        }
    }
}

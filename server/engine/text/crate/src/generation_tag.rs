//! transformers' own tag `{% generation %}`, which marks the assistant's turns for training.

/// Turns the tag into `{% with %}`, which likewise is a scope that prints what it holds. The marks `-`
/// and `+`, which decide about white space, stay.
pub fn replace(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else {
            break;
        };
        let (before, tag_on) = rest.split_at(start);
        let (tag, after) = tag_on.split_at(length + 2);
        out.push_str(before);
        match renamed(tag) {
            Some(new_tag) => out.push_str(&new_tag),
            None => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

fn renamed(tag: &str) -> Option<String> {
    let inner = tag.strip_prefix("{%")?.strip_suffix("%}")?;
    let is_mark = |mark: char| mark == '-' || mark == '+';
    let left: String = inner
        .chars()
        .next()
        .filter(|&c| is_mark(c))
        .into_iter()
        .collect();
    let right: String = inner
        .chars()
        .last()
        .filter(|&c| is_mark(c))
        .into_iter()
        .collect();
    let name = match inner.trim_matches(is_mark).trim() {
        "generation" => "with",
        "endgeneration" => "endwith",
        _ => return None,
    };
    Some(format!("{{%{left} {name} {right}%}}"))
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
}

//! Path templates of `google.api.http`:
//!
//! ```text
//! template = "/" segments [ ":" literal ]
//! segments = segment { "/" segment }
//! segment  = "*" | "**" | literal | "{" field [ "=" segments ] "}"
//! field    = name { "." name }
//! ```
//!
//! `**` stands for any number of segments and so must be the last.

/// A template that makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    segments: Vec<String>,
    variables: Vec<String>,
    verb: Option<String>,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong and what to do, as goes on behind "the path …".
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix('/').ok_or("does not begin with /: begin it so")?;
        let (rest, verb) = match rest.rsplit_once(':') {
            // A colon within a variable belongs to no verb.
            Some((before, verb)) if !verb.contains(['/', '}']) => (before, Some(verb)),
            _ => (rest, None),
        };
        let mut parser = Parser { segments: Vec::new(), variables: Vec::new() };
        parser.segments(rest)?;
        let Parser { segments, variables } = parser;
        if let Some(verb) = verb {
            literal(verb).map_err(|why| format!("ends with the verb {verb:?}, which {why}"))?;
        }
        if let Some(at) = segments.iter().position(|segment| segment == "**")
            && at + 1 < segments.len()
        {
            return Err(
                "goes on behind **, which stands for the whole rest: put it last".to_owned()
            );
        }
        for (at, variable) in variables.iter().enumerate() {
            if variables[..at].contains(variable) {
                return Err(format!("has the variable {variable} twice: keep one"));
            }
        }
        Ok(Self { segments, variables, verb: verb.map(str::to_owned) })
    }

    /// Fields that parts of a path go to.
    pub(super) fn variables(&self) -> impl Iterator<Item = &str> {
        self.variables.iter().map(String::as_str)
    }

    /// The paths that fit, with `*` for whatever one segment may be: the same for two templates that nobody could
    /// tell apart.
    pub(super) fn shape(&self) -> String {
        let verb = self.verb.as_ref().map(|verb| format!(":{verb}")).unwrap_or_default();
        format!("/{}{verb}", self.segments.join("/"))
    }
}

struct Parser {
    segments: Vec<String>,
    variables: Vec<String>,
}

impl Parser {
    fn segments(&mut self, text: &str) -> Result<(), String> {
        let mut rest = text;
        loop {
            let end = match rest.strip_prefix('{') {
                Some(within) => within
                    .find('}')
                    .map(|end| end + 2)
                    .ok_or_else(|| "opens a { that nothing closes: close it with }".to_owned())?,
                None => rest.find('/').unwrap_or(rest.len()),
            };
            let (segment, after) = rest.split_at(end);
            self.segment(segment)?;
            match after.strip_prefix('/') {
                Some(next) => rest = next,
                None if after.is_empty() => return Ok(()),
                None => {
                    return Err(format!(
                        "goes on with {after:?} behind a variable: put a / between"
                    ));
                }
            }
        }
    }

    fn segment(&mut self, segment: &str) -> Result<(), String> {
        let Some(variable) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'))
        else {
            if !matches!(segment, "*" | "**") {
                literal(segment)
                    .map_err(|why| format!("has the segment {segment:?}, which {why}"))?;
            }
            self.segments.push(segment.to_owned());
            return Ok(());
        };
        let (field, pattern) = variable.split_once('=').unwrap_or((variable, "*"));
        if !field.split('.').all(is_name) {
            return Err(format!(
                "has the variable {field:?}, which is no name of a field: use one"
            ));
        }
        self.variables.push(field.to_owned());
        if pattern.contains('{') {
            return Err(format!(
                "has a variable within the variable {field}: put them side by side"
            ));
        }
        self.segments(pattern)
    }
}

fn is_name(name: &str) -> bool {
    let mut characters = name.chars();
    characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && characters.all(|next| next.is_ascii_alphanumeric() || next == '_')
}

/// What stands in a path as it is: the characters that need no encoding there, or encoded ones.
fn literal(text: &str) -> Result<(), &'static str> {
    const FREE: &[u8] = b"-._~!$&'()+,;=@%:";
    if text.is_empty() {
        return Err("is empty: leave the / out, or name it");
    }
    let known = |byte: u8| byte.is_ascii_alphanumeric() || FREE.contains(&byte);
    if text.bytes().all(known) {
        Ok(())
    } else {
        Err("has characters that no path has: encode them with %")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, shape: &str, variables: &[&str]) {
        let template = Template::parse(text).unwrap();
        assert_eq!(template.shape(), shape);
        assert_eq!(template.variables().collect::<Vec<_>>(), variables);
    }

    #[track_caller]
    fn refused(text: &str, why: &str) {
        let said = Template::parse(text).unwrap_err();
        assert!(said.contains(why), "{text}: {said}");
        assert!(said.contains(':'), "says not what to do: {said}");
    }

    #[test]
    fn templates_of_the_examples_are_read() {
        check("/cart/{user_id}/items/add", "/cart/*/items/add", &["user_id"]);
        check("/v1/messages/{message_id}", "/v1/messages/*", &["message_id"]);
        check("/v1/{name=messages/*}", "/v1/messages/*", &["name"]);
        check("/v1/{name=messages/*}:cancel", "/v1/messages/*:cancel", &["name"]);
        check("/v1/{sub.field}/{rest=**}", "/v1/*/**", &["sub.field", "rest"]);
        check("/**", "/**", &[]);
        check("/tck.Model/Process", "/tck.Model/Process", &[]);
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        refused("", "begin");
        refused("cart", "begin");
        refused("/", "\"\", which is empty");
        refused("/cart//items", "is empty");
        refused("/cart/{user_id", "nothing closes");
        refused("/cart/{user_id}x", "behind a variable");
        refused("/cart/{}", "no name of a field");
        refused("/cart/{a.}", "no name of a field");
        refused("/cart/{a={b}}", "within the variable a");
        refused("/cart/{a}/{a}", "twice");
        refused("/cart/{a=**}/items", "behind **");
        refused("/cart/a b", "encode");
        refused("/cart:", "verb");
        refused("/cart/x*", "encode");
    }
}

//! Query strings: every parameter known, once, in range; else a problem that names it.

use std::str::FromStr;

use deia_actors::domain::problem::Problem;

use super::decode::unknown;

/// Parameters not asked for yet, and the names asked for.
#[derive(Debug, Default)]
pub(super) struct Params {
    pairs: Vec<(String, String)>,
    asked: Vec<&'static str>,
}

impl Params {
    pub(super) fn parse(raw: &str) -> Result<Self, Problem> {
        let mut pairs: Vec<(String, String)> = vec![];
        for (name, value) in form_urlencoded::parse(raw.as_bytes()) {
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(Problem::field(name, "is given twice"));
            }
            pairs.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self { pairs, asked: vec![] })
    }

    /// The text of a parameter.
    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        self.asked.push(name);
        let at = self.pairs.iter().position(|(known, _)| known == name)?;
        Some(self.pairs.swap_remove(at).1)
    }

    /// A parameter of another type; `rule` says what it must be.
    pub(super) fn value<T: FromStr>(&mut self, name: &'static str, rule: &str) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| Problem::field(name, rule))
    }

    /// An id.
    pub(super) fn id<T: FromStr>(&mut self, name: &'static str) -> Result<Option<T>, Problem> {
        self.value(name, "must be a UUID")
    }

    /// The size of a page. The façade knows its range; what fits no page fits no number either and is told in its words.
    pub(super) fn limit(&mut self) -> Result<Option<u32>, Problem> {
        let given = self.value::<i128>("limit", "must be a whole number")?;
        Ok(given.map(|n| u32::try_from(n.max(0)).unwrap_or(u32::MAX)))
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, name: &'static str) -> Result<Option<bool>, Problem> {
        self.value(name, "must be true or false")
    }

    /// Whether messages are wanted as HTML, too.
    pub(super) fn html(&mut self) -> Result<bool, Problem> {
        match self.text("render").as_deref() {
            None => Ok(false),
            Some("html") => Ok(true),
            Some(_) => Err(Problem::field("render", "must be html")),
        }
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Result<(), Problem> {
        match self.pairs.first() {
            None => Ok(()),
            Some((name, _)) => Err(Problem::field(name, unknown(name, &self.asked))),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use deia_actors::domain::ids::MessageId;

    use super::*;

    #[test]
    fn a_limit_is_a_number_and_one_out_of_every_range_stays_out_of_it() {
        for bad in ["limit=x", "limit=", "limit=1.5"] {
            let problem = Params::parse(bad).unwrap().limit().unwrap_err();
            assert_eq!(problem.errors[0].field, "limit", "{bad}");
            assert_eq!(problem.errors[0].reason, "must be a whole number");
        }
        let read = |raw: &str| Params::parse(raw).unwrap().limit().unwrap();
        assert_eq!((read("limit=-1"), read("limit=99999999999")), (Some(0), Some(u32::MAX)));
        assert_eq!((read("limit=200"), read("")), (Some(200), None));
    }

    #[test]
    fn an_unknown_parameter_is_refused_with_the_nearest_known_one() {
        let mut params = Params::parse("limt=5").unwrap();
        params.limit().unwrap();
        params.id::<MessageId>("before").unwrap();
        let problem = params.end().unwrap_err();
        assert_eq!(problem.errors[0].field, "limt");
        assert_eq!(problem.errors[0].reason, "is not known; did you mean limit?");
    }

    #[test]
    fn twice_the_same_and_ids_that_are_none_are_refused() {
        assert_eq!(Params::parse("a=1&a=2").unwrap_err().errors[0].field, "a");
        let problem = Params::parse("before=7").unwrap().id::<MessageId>("before").unwrap_err();
        assert_eq!(problem.errors[0].reason, "must be a UUID");
        assert!(Params::parse("render=pdf").unwrap().html().is_err());
        assert!(Params::parse("render=html").unwrap().html().unwrap());
    }
}

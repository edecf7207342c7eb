//! How a command came to be: by which forwards and side effects of which methods.

use std::{fmt, sync::Arc};

/// Steps that are told; those before them are counted.
const TOLD: usize = 8;

/// How one command led to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Forwarded,
    SideEffect,
}

/// The steps from a caller's command to one that it led to.
#[derive(Clone, Debug, Default)]
pub(super) struct Way(Option<Arc<Step>>);

#[derive(Debug)]
struct Step {
    how: How,
    from: String,
    before: Way,
    number: usize,
}

impl Way {
    /// This way and one more step.
    pub(super) fn and(&self, how: How, from: &str) -> Self {
        let number = self.len() + 1;
        let step = Step { how, from: from.to_owned(), before: self.clone(), number };
        Self(Some(Arc::new(step)))
    }

    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |last| last.number)
    }
}

/// The last step comes first.
impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self;
        for told in 0..TOLD {
            let Some(step) = &rest.0 else { return Ok(()) };
            let how = match step.how {
                How::Forwarded => "forwarded from",
                How::SideEffect => "side-effect of",
            };
            let comma = if told == 0 { "" } else { ", " };
            write!(f, "{comma}{how} {}", step.from)?;
            rest = &step.before;
        }
        if rest.len() > 0 { write!(f, ", and {} steps before", rest.len()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_step_is_told_first() {
        let way = Way::default().and(How::SideEffect, "shop.Cart.Add");
        let way = way.and(How::Forwarded, "shop.Stock.Take");
        assert_eq!(way.len(), 2);
        let told = "forwarded from shop.Stock.Take, side-effect of shop.Cart.Add";
        assert_eq!(way.to_string(), told);
    }

    #[test]
    fn a_long_way_is_cut() {
        let way = (0..64).fold(Way::default(), |way, _| way.and(How::Forwarded, "a.B.C"));
        assert_eq!(way.to_string().matches("forwarded from a.B.C").count(), TOLD);
        assert!(way.to_string().ends_with(", and 56 steps before"), "{way}");
    }
}

//! What replies must say: every added one is seen once, and no read goes back in time.

/// A reply that cannot be true.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "entity {entity} {what}: it said {said}, while {acknowledged} were acknowledged before and {sent} sent"
)]
pub struct Wrong {
    entity: usize,
    what: &'static str,
    said: i64,
    acknowledged: u64,
    sent: u64,
}

/// All entities of one load, each of which starts at zero and is added one at a time.
#[derive(Debug, Default)]
pub struct Accounts(Vec<Account>);

#[derive(Clone, Debug, Default)]
struct Account {
    sent: u64,
    /// Additions that nobody will hear of.
    lost: u64,
    /// The highest total in any reply.
    highest: u64,
    /// Totals that additions were answered with, one bit each.
    seen: Vec<u64>,
}

impl Accounts {
    /// So many entities.
    pub fn new(entities: usize) -> Self {
        Self(vec![Account::default(); entities])
    }

    /// Another entity; gives its number.
    pub fn push(&mut self) -> usize {
        self.0.push(Account::default());
        self.0.len() - 1
    }

    /// An addition goes out; gives the total that the reply must exceed.
    pub fn add(&mut self, entity: usize) -> u64 {
        self.0[entity].sent += 1;
        self.0[entity].highest
    }

    /// A read goes out; gives the least total that the reply may have.
    pub fn read(&self, entity: usize) -> u64 {
        self.0[entity].highest
    }

    /// An addition that went out has no reply: it may count or not.
    pub fn lost(&mut self, entity: usize) {
        self.0[entity].lost += 1;
    }

    /// An addition was answered with this total.
    ///
    /// # Errors
    /// [`Wrong`] when it cannot be.
    pub fn added(&mut self, entity: usize, floor: u64, said: i64) -> Result<(), Wrong> {
        let account = &mut self.0[entity];
        let wrong = account.wrong(entity, floor, said);
        let total = u64::try_from(said).unwrap_or_default();
        if total <= floor || total > account.sent {
            return Err(wrong("did not count an addition once"));
        }
        let (word, bit) = (usize::try_from(total / 64).unwrap_or(usize::MAX), 1 << (total % 64));
        if account.seen.len() <= word {
            account.seen.resize(word + 1, 0);
        }
        if account.seen[word] & bit != 0 {
            return Err(wrong("answered two additions alike"));
        }
        account.seen[word] |= bit;
        account.highest = account.highest.max(total);
        Ok(())
    }

    /// A read was answered with this total.
    ///
    /// # Errors
    /// [`Wrong`] when it cannot be.
    pub fn was_read(&mut self, entity: usize, floor: u64, said: i64) -> Result<(), Wrong> {
        let account = &mut self.0[entity];
        let total = u64::try_from(said).unwrap_or_default();
        if said < 0 || total < floor || total > account.sent {
            return Err(account.wrong(entity, floor, said)("was read wrong"));
        }
        account.highest = account.highest.max(total);
        Ok(())
    }

    /// Nothing is under way any more, and this is the total.
    ///
    /// # Errors
    /// [`Wrong`] when acknowledged additions are missing, or there are more than were sent.
    pub fn ended(&self, entity: usize, said: i64) -> Result<(), Wrong> {
        let account = &self.0[entity];
        let acknowledged = account.sent - account.lost;
        let total = u64::try_from(said).unwrap_or_default();
        if total < acknowledged || total > account.sent || said < 0 {
            return Err(account.wrong(entity, acknowledged, said)("ended wrong"));
        }
        Ok(())
    }

    /// Entities to which anything was sent.
    pub fn used(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.0.len()).filter(|entity| self.0[*entity].sent > 0)
    }
}

impl Account {
    fn wrong(
        &self,
        entity: usize,
        acknowledged: u64,
        said: i64,
    ) -> impl Fn(&'static str) -> Wrong + use<> {
        let sent = self.sent;
        move |what| Wrong { entity, what, said, acknowledged, sent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_addition_has_a_total_of_its_own() {
        let mut accounts = Accounts::new(1);
        let (first, second) = (accounts.add(0), accounts.add(0));
        accounts.added(0, first, 2).unwrap();
        assert!(accounts.added(0, second, 2).is_err(), "doubled");
        accounts.added(0, second, 1).unwrap();
        let third = accounts.add(0);
        assert!(accounts.added(0, third, 2).is_err(), "lost");
        assert!(accounts.added(0, third, 4).is_err(), "out of nothing");
        accounts.added(0, third, 3).unwrap();
        accounts.ended(0, 3).unwrap();
        assert!(accounts.ended(0, 2).is_err());
    }

    #[test]
    fn a_read_does_not_go_back() {
        let mut accounts = Accounts::new(1);
        let floor = accounts.add(0);
        accounts.added(0, floor, 1).unwrap();
        let floor = accounts.read(0);
        assert!(accounts.was_read(0, floor, 0).is_err());
        accounts.was_read(0, floor, 1).unwrap();
    }

    #[test]
    fn an_addition_without_a_reply_may_count_or_not() {
        let mut accounts = Accounts::new(1);
        accounts.add(0);
        accounts.lost(0);
        accounts.ended(0, 0).unwrap();
        accounts.ended(0, 1).unwrap();
        assert!(accounts.ended(0, 2).is_err());
    }
}

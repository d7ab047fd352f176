//! The life of a path at its client: its state, and the one table of how that changes.
//!
//! ```text
//!             connected                   accepted              heard
//!   Dialing ------------> Authenticating ----------> Active <----------- Silent
//!      ^                                              |  ^                  ^
//!      | dialed                               silence |  | heard            | death, of Active too
//!      |                                              v  |                  |
//!   Waiting <---- lost, where no arrow says else    Suspect ----------------+
//!
//!              drained             silence
//!   Active ------------> Draining <-------> Stalled <------------ Suspect
//!                                   heard             drained
//! ```
//!
//! A path ends from each of them, and has no state then. It does when its connection is lost before
//! it was ever accepted or while it leaves, and when it dies while it leaves.
//!
//! The scheduler keeps the state, as it decides by it and changes it most often. Three things stay
//! apart, since they are no part of it: how *well* a path does ([`Health`](super::Health)), which
//! only the primary is told; until when it rests, which is a time; and what the primary was told
//! last, with the reason ([`PathTable`](super::PathTable)), which it learns a turn later.

use super::PathStatus;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PathState {
    /// Without a connection, until it is dialed again.
    Waiting,
    /// Its connection is being made.
    Dialing,
    /// The request for authentication is on its way.
    Authenticating,
    /// It answers.
    Active,
    /// Silent with bytes outstanding: its pieces go elsewhere.
    Suspect,
    /// Silent for so long that its leases are lost; it takes none until it speaks.
    Silent,
    /// It finishes what it was asked for, and takes nothing more.
    Draining,
    /// ... and is silent with bytes outstanding.
    Stalled,
}

/// What happens to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PathInput {
    /// It is dialed again.
    Dialed,
    /// Its connection stands.
    Connected,
    /// Its server has accepted the client.
    Accepted,
    /// It was silent with bytes outstanding.
    Silence,
    /// It was silent for so long that it counts as dead.
    Death,
    /// A sign of life.
    Heard,
    /// The primary removes it.
    Drained,
    /// Its connection is gone.
    Lost,
}

impl PathState {
    /// The state that follows; none where nothing changes.
    pub(crate) const fn on(self, input: PathInput) -> Option<Self> {
        use PathInput as I;
        Some(match (self, input) {
            (Self::Waiting, I::Dialed) => Self::Dialing,
            (Self::Dialing, I::Connected) => Self::Authenticating,
            (Self::Authenticating, I::Accepted) | (Self::Suspect | Self::Silent, I::Heard) => {
                Self::Active
            }
            (Self::Active, I::Silence) => Self::Suspect,
            (Self::Active | Self::Suspect, I::Death) => Self::Silent,
            (Self::Active, I::Drained) | (Self::Stalled, I::Heard) => Self::Draining,
            (Self::Suspect, I::Drained) | (Self::Draining, I::Silence) => Self::Stalled,
            (Self::Waiting | Self::Draining | Self::Stalled, I::Lost) => return None,
            (_, I::Lost) => Self::Waiting,
            _ => return None,
        })
    }

    /// Its server has accepted the client on the connection that stands.
    pub(crate) const fn is_open(self) -> bool {
        !matches!(self, Self::Waiting | Self::Dialing | Self::Authenticating)
    }

    /// It has a connection on which its server can do right or wrong.
    pub(crate) const fn is_connected(self) -> bool {
        self.is_open() || matches!(self, Self::Authenticating)
    }

    /// It may be given leases, as it answers or may soon again.
    pub(crate) const fn takes_leases(self) -> bool {
        matches!(self, Self::Active | Self::Suspect)
    }

    /// It may take leases as soon as its server has accepted the client.
    pub(crate) const fn is_joining(self) -> bool {
        matches!(self, Self::Dialing | Self::Authenticating)
    }

    /// It takes no leases now, and may later.
    pub(crate) const fn is_expected(self) -> bool {
        matches!(self, Self::Waiting | Self::Dialing | Self::Authenticating | Self::Silent)
    }

    /// It is silent with bytes outstanding.
    pub(crate) const fn is_suspect(self) -> bool {
        matches!(self, Self::Suspect | Self::Silent | Self::Stalled)
    }

    /// It leaves in order.
    pub(crate) const fn is_leaving(self) -> bool {
        matches!(self, Self::Draining | Self::Stalled)
    }

    /// What the primary and the application are told. `again`: it was accepted before, on another
    /// connection; `degraded`: it does badly.
    pub(crate) const fn status(self, again: bool, degraded: bool) -> PathStatus {
        match self {
            Self::Dialing | Self::Authenticating if !again => PathStatus::Connecting,
            Self::Waiting | Self::Dialing | Self::Authenticating | Self::Silent => PathStatus::Dead,
            Self::Active | Self::Suspect if degraded => PathStatus::Degraded,
            Self::Active | Self::Suspect => PathStatus::Active,
            Self::Draining | Self::Stalled => PathStatus::Disconnecting,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PathInput as I;
    use super::PathState as S;
    use super::*;

    const STATES: [S; 8] = [
        S::Waiting,
        S::Dialing,
        S::Authenticating,
        S::Active,
        S::Suspect,
        S::Silent,
        S::Draining,
        S::Stalled,
    ];
    const INPUTS: [I; 8] =
        [I::Dialed, I::Connected, I::Accepted, I::Silence, I::Death, I::Heard, I::Drained, I::Lost];
    /// The arrows of the diagram.
    const ARROWS: [(S, I, S); 17] = [
        (S::Waiting, I::Dialed, S::Dialing),
        (S::Dialing, I::Connected, S::Authenticating),
        (S::Dialing, I::Lost, S::Waiting),
        (S::Authenticating, I::Accepted, S::Active),
        (S::Authenticating, I::Lost, S::Waiting),
        (S::Active, I::Silence, S::Suspect),
        (S::Active, I::Death, S::Silent),
        (S::Active, I::Drained, S::Draining),
        (S::Active, I::Lost, S::Waiting),
        (S::Suspect, I::Heard, S::Active),
        (S::Suspect, I::Death, S::Silent),
        (S::Suspect, I::Drained, S::Stalled),
        (S::Suspect, I::Lost, S::Waiting),
        (S::Silent, I::Heard, S::Active),
        (S::Silent, I::Lost, S::Waiting),
        (S::Draining, I::Silence, S::Stalled),
        (S::Stalled, I::Heard, S::Draining),
    ];

    #[test]
    fn states_follow_the_arrows_of_the_diagram_and_no_others() {
        for state in STATES {
            for input in INPUTS {
                let arrow = ARROWS.iter().find(|(from, on, _)| (*from, *on) == (state, input));
                assert_eq!(state.on(input), arrow.map(|(.., to)| *to), "{state:?} on {input:?}");
            }
        }
    }

    #[test]
    fn what_is_told_of_a_path_follows_from_its_state() {
        for state in STATES {
            let told = [(false, false), (true, false), (false, true)];
            let [first, again, degraded] = told.map(|(a, d)| state.status(a, d));
            // Only a path that takes leases counts as one that can carry data.
            assert_eq!(again.is_usable(), state.takes_leases(), "{state:?}");
            assert_eq!(first != again, !state.is_open() && state != S::Waiting, "{state:?}");
            assert_eq!(degraded != first, state.takes_leases(), "{state:?}");
            assert_eq!(first == PathStatus::Disconnecting, state.is_leaving(), "{state:?}");
        }
    }
}

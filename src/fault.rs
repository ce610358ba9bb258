//! Faults that the tests plant to see whether the convergence harness notices them.
//!
//! They exist only with the feature `planted-faults`, which no release has, and one of them acts
//! only where `sync --planted-fault NAME` asks for it.

macro_rules! faults {
    ($($(#[doc = $what:literal])+ $fault:ident,)+) => {
        /// A fault, by what it does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[cfg_attr(feature = "planted-faults", derive(clap::ValueEnum))]
        pub enum Fault {
            $($(#[doc = $what])+ $fault,)+
        }
    };
}

faults! {
    /// Rows are read from above the watermark, and not from it on.
    KeyAbove,
    /// The watermark advances to marks that are not safe.
    UnsafeMark,
    /// Prepared transactions do not count as being in flight.
    PreparedIgnored,
    /// The oldest transaction that a snapshot did not see counts as seen.
    XminOffByOne,
    /// Rows whose replication key is NULL are not read.
    NullKeysForgotten,
    /// A key in the future moves the watermark.
    FutureKeyCounts,
    /// The receipt is written before the transaction of the rows begins.
    ReceiptOutside,
    /// The state file is written before the rows are committed.
    StateFileFirst,
    /// The merge leaves the last column as it is.
    ColumnForgotten,
    /// Rows that are equal, though not the same, are taken for the same.
    EqualIsSame,
    /// A column that may be NULL now goes on refusing it.
    NotNullKept,
    /// Staged rows stay in the staging table.
    StagingKept,
    /// Rows that are there before the others are emptied out of the staging table unmerged.
    PartForgotten,
    /// Types are compared without their modifiers.
    ModifiersIgnored,
    /// Partitions that were attached and tables that were reloaded are not noticed.
    StorageIgnored,
    /// A table that was made again counts as the one that was copied.
    NewTableTrusted,
    /// A label that got another name is not noticed.
    LabelsIgnored,
    /// The rows of a new copy are not frozen, so that an older snapshot sees none of them.
    NotFrozen,
    /// The old table is dropped before the new one is loaded.
    DroppedFirst,
    /// Two runs may work on a table at once.
    NotLocked,
    /// A copy is loaded without its last rows.
    CutShort,
    /// The first bucket that differs is taken for equal.
    BucketSkipped,
    /// Digests leave the first column out.
    ColumnUndigested,
    /// Rows that only the destination has are not removed.
    ExtraForgotten,
    /// A version that is there already is added again.
    VersionAddedTwice,
    /// A table with newer rows counts as idle.
    NewerOverlooked,
    /// What is printed of a plan leaves a statement out.
    PlanCutShort,
    /// Whatever differs counts as newer than the last sync.
    AllPending,
}

#[cfg(feature = "planted-faults")]
static PLANTED: std::sync::OnceLock<Fault> = std::sync::OnceLock::new();

/// Plants a fault in this process.
#[cfg(feature = "planted-faults")]
pub fn plant(fault: Fault) {
    // A second one would be one too many, and changes nothing.
    let _ = PLANTED.set(fault);
}

/// Whether this fault was planted.
#[cfg(feature = "planted-faults")]
#[must_use]
pub fn planted(fault: Fault) -> bool {
    PLANTED.get() == Some(&fault)
}

/// Whether this fault was planted: never in a build without the feature.
#[cfg(not(feature = "planted-faults"))]
#[must_use]
#[inline]
pub const fn planted(_: Fault) -> bool {
    false
}

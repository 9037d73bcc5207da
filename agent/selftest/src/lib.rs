//! The hostile suite: acts that must fail in the sandbox that steps get, tried for real, each with a control that shows
//! that the act can succeed at all.
//!
//! # Words
//! An **attack** is data: a name, a family, what it tries, an **act**, and where its **control** is made ([`attack`]). The
//! **catalogue** lists them ([`catalogue`]). The **hostile** program is this very program, run inside the sandbox, where it
//! makes one act and says what came of it: a **verdict** ([`verdict`], [`hostile`]). What it is told about the host is the
//! **scene**: files, a process, listeners and names that were **planted** outside for it to reach ([`scene`], [`planted`]).
//! A **setting** is one mode of the launcher with one identity of the step; the **course** makes every attack in it
//! ([`course`]).
//!
//! # Invariants
//! No attack needs a program of the host. The spec that is attacked comes from the same lowering as a step's. An act that
//! gives no verdict counts as not refused. Controls change nothing of the host that they do not put back.
//!
//! # Entry points
//! [`hostile::entry`] early in `main`; then [`course::run`].

pub mod attack;
pub mod catalogue;
pub mod control;
pub mod course;
pub mod hostile;
pub mod needs;
pub mod pipe;
pub mod planted;
pub mod reach;
pub mod scene;
pub mod verdict;

//! Several controllers as one: calls go to the one that answered last, and to the next one after a call that it did not
//! answer, or answered as unavailable, as one does that stands by. Nothing is repeated here: whoever called does that.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tonic::Code;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::transport::{Channel, Error};

/// The connections, and which of them is used. Clones share both.
#[derive(Clone, Debug)]
pub(super) struct Switch {
    channels: Arc<[Channel]>,
    current: Arc<AtomicUsize>,
}

/// Moves on unless the call was answered: one that is dropped waited too long.
struct Moving {
    switch: Switch,
    from: usize,
    answered: bool,
}

impl Drop for Moving {
    fn drop(&mut self) {
        if !self.answered {
            self.switch.leave(self.from);
        }
    }
}

impl Switch {
    /// At least one connection.
    pub(super) fn new(channels: Vec<Channel>) -> Switch {
        Switch { channels: channels.into(), current: Arc::default() }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.channels.len()
    }

    /// Uses the next one, unless somebody else has moved on from `from` already.
    fn leave(&self, from: usize) {
        let next = (from + 1) % self.channels.len();
        // Lost races mean that it was left already.
        let _left = self.current.compare_exchange(from, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
    }
}

fn is_unavailable(answer: &http::Response<Body>) -> bool {
    let code = answer.headers().get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()));
    code == Some(Code::Unavailable)
}

impl Service<http::Request<Body>> for Switch {
    type Response = http::Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // Whether the one that will be used is ready is found out in the call.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let from = self.current.load(Ordering::Relaxed) % self.channels.len();
        let mut channel = self.channels[from].clone();
        let moving = Moving { switch: self.clone(), from, answered: false };
        Box::pin(async move {
            // All of it, so that dropping this drops it.
            let mut moving = moving;
            poll_fn(|context| channel.poll_ready(context)).await?;
            let answer = channel.call(request).await?;
            moving.answered = !is_unavailable(&answer);
            Ok(answer)
        })
    }
}

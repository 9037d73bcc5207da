//! From a want to bytes on disk: what is stored is used, the rest is fetched once however many ask, and checked on its way.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use reqwest::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
};
use reqwest::{Response, StatusCode};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use url::Url;

use crate::digest::{Check, Sha256Digest, Stated};
use crate::settings::{Millis, Reach};
use crate::store::{Record, Store, Stored};
use crate::unserved::Unserved;
use crate::upstream::{Upstream, Wanted, place};

/// Files that are fetched at once; further ones wait.
const AT_ONCE: usize = 24;
/// The most bytes of one file.
pub(crate) const MOST_FILE: u64 = 8 << 30;
/// The most bytes of one document of an index.
pub(crate) const MOST_PAGE: u64 = 256 << 20;
/// Seconds for which a document that was just confirmed is used, whatever its server says: one installation asks several times.
const SETTLED: u64 = 30;

/// How fresh a stored document must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// As its server says, or a little longer.
    Current,
    /// However old.
    Any,
}

/// A document of an index that is wanted.
#[derive(Clone, Debug)]
pub(crate) struct PageWant {
    pub url: Url,
    pub accept: Option<&'static str>,
    pub stated: Stated,
    pub freshness: Freshness,
    pub reach: Reach,
    /// What it is, for messages: `the project 'django'`.
    pub what: String,
}

/// A document that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub digest: Sha256Digest,
    pub content_type: String,
    /// Where it came from in the end, to which its links are relative.
    pub url: Url,
}

/// A file that is wanted.
#[derive(Clone, Debug)]
pub(crate) struct FileWant {
    pub url: Url,
    pub stated: Stated,
    pub reach: Reach,
    /// Its name, for messages.
    pub what: String,
}

/// Where a file's bytes are.
#[derive(Debug)]
pub(crate) enum Found {
    /// On disk.
    Stored(Stored, Sha256Digest),
    /// On their way.
    Coming(Arc<Flight>),
}

/// A file on its way: it grows on disk, and whoever wants it follows.
#[derive(Debug)]
pub(crate) struct Flight {
    file: File,
    progress: watch::Sender<Progress>,
}

/// How far a flight is.
#[derive(Clone, Debug)]
pub(crate) enum Progress {
    /// The index was not heard yet.
    Asking,
    /// Bytes come. All but the last are for whoever follows; the last waits until all are verified.
    Coming {
        /// How many there will be, when the index said so.
        length: Option<u64>,
        /// How many are on disk.
        written: u64,
    },
    /// Everything is on disk, and is what the index states.
    Whole {
        /// The digest.
        digest: Sha256Digest,
        /// The size.
        size: u64,
    },
    /// It came to nothing.
    Failed(Unserved),
}

impl Flight {
    /// Watches it.
    pub(crate) fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Reads what is on disk.
    pub(crate) fn read_at(&self, buffer: &mut [u8], at: u64) -> std::io::Result<usize> {
        self.file.read_at(buffer, at)
    }
}

/// Fetches and remembers.
#[derive(Debug)]
pub(crate) struct Fetcher {
    pub(crate) store: Store,
    upstream: Upstream,
    flights: Mutex<HashMap<String, Arc<Flight>>>,
    pages: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    slots: Arc<Semaphore>,
    tasks: Mutex<JoinSet<()>>,
    /// What this process fetched and did not serve yet.
    fresh: Mutex<HashSet<Sha256Digest>>,
}

impl Fetcher {
    pub(crate) fn new(store: Store, upstream: Upstream) -> Fetcher {
        Fetcher {
            store,
            upstream,
            flights: Mutex::default(),
            pages: Mutex::default(),
            slots: Arc::new(Semaphore::new(AT_ONCE)),
            tasks: Mutex::default(),
            fresh: Mutex::default(),
        }
    }

    /// A document of an index, from the store if it is fresh enough.
    pub(crate) async fn page(&self, want: &PageWant) -> Result<Page, Unserved> {
        let key = format!("page {} {} {}", want.accept.unwrap_or_default(), want.stated.key(), want.url);
        let stored = || {
            let record = self.store.record(&key)?;
            let digest = record.digest().filter(|digest| self.store.has(*digest))?;
            let page = Page { digest, content_type: record.content_type.clone(), url: Url::parse(&record.url).ok()? };
            Some((record, page))
        };
        let usable = |record: &Record| {
            let age = now().saturating_sub(record.confirmed_at) / 1000;
            want.freshness == Freshness::Any
                || want.reach == Reach::Offline
                || want.stated.is_checkable()
                || age < record.max_age.max(SETTLED)
        };
        if let Some((record, page)) = stored()
            && usable(&record)
        {
            return Ok(page);
        }
        if want.reach == Reach::Offline {
            return Err(Unserved::absent(format!("{} is not stored, and the gateway is offline", want.what)));
        }
        let turn = Arc::clone(self.pages.lock().unwrap_or_else(PoisonError::into_inner).entry(key.clone()).or_default());
        let _turn = turn.lock().await;
        // Whoever had the turn before may have brought it.
        let known = stored();
        if let Some((record, page)) = &known
            && usable(record)
        {
            return Ok(page.clone());
        }
        let fetched = self.fetch_page(want, &key, known).await;
        self.pages.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        fetched
    }

    async fn fetch_page(&self, want: &PageWant, key: &str, known: Option<(Record, Page)>) -> Result<Page, Unserved> {
        let mut headers: Vec<(HeaderName, &str)> = want.accept.iter().map(|accept| (ACCEPT, *accept)).collect();
        if let Some((record, _)) = &known {
            headers.extend(record.etag.iter().map(|etag| (IF_NONE_MATCH, etag.as_str())));
            headers.extend(record.last_modified.iter().map(|at| (IF_MODIFIED_SINCE, at.as_str())));
        }
        let response = self.upstream.ask(Wanted::Page, &want.url, &headers).await?;
        let (status, url, answered) = (response.status(), plain(response.url()), response.headers().clone());
        if let (StatusCode::NOT_MODIFIED, Some((mut record, page))) = (status, known) {
            record.confirmed_at = now();
            record.max_age = max_age(&answered).unwrap_or(record.max_age);
            self.remember(key, &record);
            return Ok(page);
        }
        fit(&response, &want.url, &want.what)?;
        let mut check = Check::new(want.stated.clone());
        let mut draft = self.store.draft().map_err(|error| disk(&error))?;
        let mut body = response.bytes_stream();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|_| Unserved::failed(format!("{} broke off", want.what)))?;
            check.update(&chunk);
            if check.size() > MOST_PAGE {
                return Err(Unserved::failed_for_good(format!("{} is larger than {MOST_PAGE} bytes", want.what)));
            }
            draft.write_all(&chunk).map_err(|error| disk(&error))?;
        }
        let (digest, _) = check.finish().map_err(|error| Unserved::failed_for_good(format!("{} is refused: {error}", want.what)))?;
        self.store.keep(draft, digest).map_err(|error| disk(&error))?;
        let text = |name: HeaderName| answered.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let record = Record {
            url: url.to_string(),
            digest: digest.to_string(),
            content_type: text(CONTENT_TYPE).unwrap_or_default(),
            etag: text(ETAG),
            last_modified: text(LAST_MODIFIED),
            confirmed_at: now(),
            max_age: max_age(&answered).unwrap_or(0),
        };
        self.remember(key, &record);
        self.trim();
        Ok(Page { digest, content_type: record.content_type, url })
    }

    /// The bytes of a stored document. Read whole and verified; damaged ones are removed.
    pub(crate) async fn read(&self, digest: Sha256Digest) -> Result<Vec<u8>, Unserved> {
        let store = self.store.clone();
        let read = move || {
            let gone = || Unserved::failed("a stored document is gone".to_owned());
            let mut stored = store.find(digest).ok_or_else(gone)?;
            let mut bytes = Vec::with_capacity(usize::try_from(stored.size).unwrap_or(0));
            stored.file.read_to_end(&mut bytes).map_err(|error| disk(&error))?;
            if Sha256Digest::of(&bytes) != digest {
                store.discard(digest);
                return Err(gone());
            }
            Ok(bytes)
        };
        tokio::task::spawn_blocking(read).await.unwrap_or_else(|_| Err(Unserved::failed("reading a stored document ended early")))
    }

    /// A file: stored, on its way, or now begun. Must be called within a tokio runtime.
    pub(crate) fn file(self: &Arc<Self>, want: FileWant) -> Result<Found, Unserved> {
        let key = format!("file {} {}", want.stated.key(), want.url);
        if let Some(found) = self.stored(&key, &want.stated) {
            return Ok(found);
        }
        if want.reach == Reach::Offline {
            return Err(Unserved::absent(format!("{} is not stored, and the gateway is offline", want.what)));
        }
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&key) {
            return Ok(Found::Coming(Arc::clone(flight)));
        }
        // One that ended between the two looks has left its file.
        if let Some(found) = self.stored(&key, &want.stated) {
            return Ok(found);
        }
        let draft = self.store.draft().map_err(|error| disk(&error))?;
        let file = draft.reopen().map_err(|error| disk(&error))?;
        let flight = Arc::new(Flight { file, progress: watch::Sender::new(Progress::Asking) });
        flights.insert(key.clone(), Arc::clone(&flight));
        drop(flights);
        let (fetcher, flown) = (Arc::clone(self), Arc::clone(&flight));
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let ended = fetcher.fly(&want, &key, draft, &flown.progress).await;
            flown.progress.send_replace(match ended {
                Ok((digest, size)) => Progress::Whole { digest, size },
                Err(unserved) => Progress::Failed(unserved),
            });
            fetcher.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            fetcher.trim();
        });
        Ok(Found::Coming(flight))
    }

    /// A file, once all of it is stored.
    pub(crate) async fn whole(self: &Arc<Self>, want: FileWant) -> Result<Stored, Unserved> {
        let flight = match self.file(want)? {
            Found::Stored(stored, _) => return Ok(stored),
            Found::Coming(flight) => flight,
        };
        let mut watch = flight.watch();
        loop {
            let progress = watch.borrow_and_update().clone();
            match progress {
                Progress::Failed(unserved) => return Err(unserved),
                Progress::Whole { digest, .. } => {
                    let gone = || Unserved::failed("the file was evicted as soon as it was stored; the quota is too small");
                    return self.store.find(digest).ok_or_else(gone);
                }
                Progress::Coming { .. } | Progress::Asking => {}
            }
            if watch.changed().await.is_err() {
                return Err(Unserved::failed("the gateway is closing"));
            }
        }
    }

    /// Whether a file is stored.
    pub(crate) fn has_file(&self, url: &Url, stated: &Stated) -> bool {
        match stated.single_sha256() {
            Some(digest) => self.store.has(digest),
            None => self.store.record(&format!("file {} {url}", stated.key())).and_then(|r| r.digest()).is_some_and(|d| self.store.has(d)),
        }
    }

    fn stored(&self, key: &str, stated: &Stated) -> Option<Found> {
        let digest = stated.single_sha256().or_else(|| self.store.record(key)?.digest())?;
        self.store.find(digest).map(|stored| Found::Stored(stored, digest))
    }

    async fn fly(
        &self,
        want: &FileWant,
        key: &str,
        mut draft: tempfile::NamedTempFile,
        progress: &watch::Sender<Progress>,
    ) -> Result<(Sha256Digest, u64), Unserved> {
        let _slot = self.slots.acquire().await.map_err(|_| Unserved::failed("the gateway is closing"))?;
        let response = self.upstream.ask(Wanted::File, &want.url, &[]).await?;
        fit(&response, &want.url, &want.what)?;
        // A folder's answer says it in its head alone.
        let said = || response.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok();
        let length = response.content_length().or_else(said);
        let most = want.stated.size.unwrap_or(MOST_FILE);
        let wrong = |why: String| Unserved::failed_for_good(format!("{} is refused: {why}", want.what));
        if let Some(length) = length.filter(|length| *length > most) {
            return Err(wrong(format!("it has {length} bytes, more than {most}")));
        }
        let (url, content_type) = (plain(response.url()), response.headers().get(CONTENT_TYPE).cloned());
        let mut check = Check::new(want.stated.clone());
        progress.send_replace(Progress::Coming { length, written: 0 });
        let mut body = response.bytes_stream();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|_| Unserved::failed(format!("{} broke off", want.what)))?;
            check.update(&chunk);
            if check.size() > most {
                return Err(wrong(format!("it has more than {most} bytes")));
            }
            draft.write_all(&chunk).map_err(|error| disk(&error))?;
            progress.send_replace(Progress::Coming { length, written: check.size() });
        }
        let (digest, size) = check.finish().map_err(|error| wrong(error.to_string()))?;
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner).insert(digest);
        self.store.keep(draft, digest).map_err(|error| disk(&error))?;
        let record = Record {
            url: url.to_string(),
            digest: digest.to_string(),
            content_type: content_type.and_then(|value| value.to_str().ok().map(str::to_owned)).unwrap_or_default(),
            etag: None,
            last_modified: None,
            confirmed_at: now(),
            max_age: 0,
        };
        self.remember(key, &record);
        Ok((digest, size))
    }

    /// Whether a file was fetched by this process and is served for the first time; afterwards it comes from disk.
    pub(crate) fn take_fresh(&self, digest: Sha256Digest) -> bool {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner).remove(&digest)
    }

    fn remember(&self, key: &str, record: &Record) {
        if let Err(error) = self.store.remember(key, record) {
            tracing::warn!(%error, "what an address led to was not remembered");
        }
    }

    /// Keeps the store within its quota, on a thread for it.
    fn trim(&self) {
        if !self.store.is_due() {
            return;
        }
        let store = self.store.clone();
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn_blocking(move || {
            if let Err(error) = store.trim() {
                tracing::warn!(%error, "the store of packages was not brought below its quota");
            }
        });
    }
}

fn fit(response: &Response, url: &Url, what: &str) -> Result<(), Unserved> {
    let status = response.status();
    match status {
        StatusCode::OK => Ok(()),
        StatusCode::NOT_FOUND | StatusCode::GONE => Err(Unserved::absent(format!("{} has no {what}", place(url)))),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Err(Unserved::failed_for_good(format!("{} does not let this host have {what} ({status})", place(url))))
        }
        _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            Err(Unserved::failed(format!("{} answered {status} for {what}", place(url))))
        }
        _ => Err(Unserved::failed_for_good(format!("{} answered {status} for {what}", place(url)))),
    }
}

fn disk(error: &std::io::Error) -> Unserved {
    Unserved::failed_for_good(format!("the store of packages cannot be used: {error}"))
}

/// The address without anything that an index may have added for us alone.
fn plain(url: &Url) -> Url {
    let mut url = url.clone();
    url.set_fragment(None);
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url
}

fn max_age(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(CACHE_CONTROL)?.to_str().ok()?;
    let words: Vec<&str> = text.split(',').map(str::trim).collect();
    if words.iter().any(|word| matches!(*word, "no-cache" | "no-store")) {
        return Some(0);
    }
    words.iter().find_map(|word| word.strip_prefix("max-age=")?.parse().ok())
}

/// Now.
pub(crate) fn now() -> Millis {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

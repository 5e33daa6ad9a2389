//! An update as a file: a tar archive (POSIX ustar) of three members in this order.
//!
//! 1 `manifest`: TOML; product, architecture, version, and the size and SHA-256 of what is third. 2 `manifest.minisig`: minisign's
//! signature of the first, of the prehashed kind. 3 `root.squashfs`: what goes into a slot. Nothing of a manifest is believed
//! before its signature holds, and its comment, which the signer's tool writes for people, never.

use super::version::Version;
use minisign_verify::{PublicKey, Signature};
use ring::digest::{Context, SHA256};
use serde::Deserialize;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

const BLOCK: u64 = 512;
/// Bytes: a manifest is 200, a signature 300. What is longer is no update, and is not read.
const MAX_TEXT: u64 = 16 * 1024;
/// Bytes read at a time.
const CHUNK: usize = 1 << 20;
const PRODUCT: &str = "popgate";

/// Why an update is not taken, for the operator.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("it is not an update: {0}")]
    NotAnUpdate(String),
    #[error("it is not signed")]
    Unsigned,
    #[error("this box takes no updates: its image has no key, and /etc/popgate/update-keys has none")]
    NoKeys,
    #[error("it is signed by none of the keys that this box trusts, or was altered")]
    WrongSignature,
    #[error("it is cut short")]
    Truncated,
    #[error("its content is not what its manifest says: it was altered")]
    Altered,
    #[error("it is for {0}")]
    NotForThis(String),
    #[error("{offered} is older than {running}; `--allow-downgrade` takes it all the same")]
    Older { offered: Version, running: Version },
    #[error("{0} is what runs already")]
    Same(Version),
    #[error("{0} was tried before and did not come up healthy; `popgate update install` tries it again")]
    FailedBefore(Version),
    #[error("it needs {needs} bytes, and a slot has {has}")]
    TooBig { needs: u64, has: u64 },
    #[error("the running version is still on trial: the other slot is what the box falls back to")]
    OnTrial,
    #[error(transparent)]
    Io(#[from] io::Error),
}

#[derive(Debug, Deserialize)]
struct ManifestText {
    product: String,
    architecture: String,
    version: String,
    size: u64,
    sha256: String,
}

/// An update whose signature holds, for this product and architecture. Its content is still to be looked at.
#[derive(Debug)]
pub struct Bundle {
    file: File,
    version: Version,
    size: u64,
    sha256: [u8; 32],
    /// Where the content begins.
    at: u64,
}

impl Bundle {
    /// Reads the first two members and holds them to `keys`; what they are for, to `architecture` (`std::env::consts::ARCH`'s names).
    ///
    /// # Errors
    /// Why it is none, or not for this box.
    pub fn open(mut file: File, keys: &[PublicKey], architecture: &str) -> Result<Bundle, Refusal> {
        let manifest = read_text(&mut file, "manifest")?;
        let signature = match read_text(&mut file, "manifest.minisig") {
            Err(Refusal::NotAnUpdate(_)) => return Err(Refusal::Unsigned),
            read => read?,
        };
        if keys.is_empty() {
            return Err(Refusal::NoKeys);
        }
        let signature = Signature::decode(&signature).map_err(|_| Refusal::Unsigned)?;
        // The other kind, of what is not hashed first, is minisign's past.
        if !keys.iter().any(|key| key.verify(manifest.as_bytes(), &signature, false).is_ok()) {
            return Err(Refusal::WrongSignature);
        }
        let nonsense = |what: String| Refusal::NotAnUpdate(what);
        let read: ManifestText = toml::from_str(&manifest).map_err(|error| nonsense(error.to_string()))?;
        if read.product != PRODUCT {
            return Err(Refusal::NotForThis(read.product));
        }
        if read.architecture != architecture {
            return Err(Refusal::NotForThis(read.architecture));
        }
        let version = read.version.parse().map_err(nonsense)?;
        let sha256 = hash_of(&read.sha256).ok_or_else(|| nonsense("its hash is none".to_owned()))?;
        let (name, size) = read_header(&mut file)?;
        if name != "root.squashfs" || size != read.size {
            return Err(Refusal::Altered);
        }
        let at = file.stream_position()?;
        Ok(Bundle { file, version, size, sha256, at })
    }

    pub fn version(&self) -> &Version {
        &self.version
    }

    /// Of the content, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where the content ends in the file.
    pub fn end(&self) -> u64 {
        self.at + self.size
    }

    /// What of the content is in a file that has so many bytes by now.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn come(&mut self, length: u64) -> io::Result<Vec<u8>> {
        let mut come = Vec::new();
        self.file.seek(SeekFrom::Start(self.at))?;
        let mine = length.saturating_sub(self.at).min(self.size);
        (&mut self.file).take(mine).read_to_end(&mut come)?;
        Ok(come)
    }

    /// Whether the content's SHA-256 is to be this.
    pub fn is_of(&self, hash: &[u8]) -> bool {
        self.sha256 == hash
    }

    /// Looks at all of the content.
    ///
    /// # Errors
    /// If it is not what the manifest says.
    pub fn verify(&mut self) -> Result<(), Refusal> {
        self.copy(&mut io::sink())
    }

    /// Writes the content somewhere, and looks at it once more meanwhile: whoever gave the file can still write to it.
    ///
    /// # Errors
    /// If it is not what the manifest says: what was written is worthless then.
    pub fn copy(&mut self, to: &mut impl Write) -> Result<(), Refusal> {
        self.file.seek(SeekFrom::Start(self.at))?;
        let copied = hash(&mut (&mut self.file).take(self.size), to)?;
        match copied {
            (length, _) if length < self.size => Err(Refusal::Truncated),
            (_, hash) if hash == self.sha256 => Ok(()),
            _ => Err(Refusal::Altered),
        }
    }

    /// Whether something begins with the content.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn is_in(&self, what: &mut impl Read) -> io::Result<bool> {
        Ok(hash(&mut what.take(self.size), &mut io::sink())? == (self.size, self.sha256))
    }
}

/// Copies all there is; how much it was, and its SHA-256.
fn hash(from: &mut impl Read, to: &mut impl Write) -> io::Result<(u64, [u8; 32])> {
    let mut context = Context::new(&SHA256);
    let mut chunk = vec![0; CHUNK];
    let mut length = 0;
    loop {
        let read = match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        context.update(&chunk[..read]);
        to.write_all(&chunk[..read])?;
        length += read as u64;
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    Ok((length, hash))
}

fn hash_of(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(hash)
}

/// The next member, which must be called so and be a short text.
fn read_text(file: &mut File, expected: &str) -> Result<String, Refusal> {
    let (name, size) = read_header(file)?;
    if name != expected || size > MAX_TEXT {
        return Err(Refusal::NotAnUpdate(format!("no {expected}")));
    }
    let mut text = vec![0; usize::try_from(size.next_multiple_of(BLOCK)).unwrap_or_default()];
    file.read_exact(&mut text).map_err(cut_short)?;
    text.truncate(usize::try_from(size).unwrap_or_default());
    String::from_utf8(text).map_err(|_| Refusal::NotAnUpdate(format!("{expected} is no text")))
}

/// A member's name and size (POSIX.1-2017, pax, "ustar Interchange Format"): of the first 100 bytes and of 12 octal digits.
fn read_header(file: &mut File) -> Result<(String, u64), Refusal> {
    let mut header = [0; BLOCK as usize];
    file.read_exact(&mut header).map_err(cut_short)?;
    let no_tar = || Refusal::NotAnUpdate("it is no tar archive".to_owned());
    if &header[257..262] != b"ustar" || header[156] != b'0' {
        return Err(no_tar());
    }
    let field = |bytes: &[u8]| {
        let end = bytes.iter().position(|it| matches!(it, 0 | b' ')).unwrap_or(bytes.len());
        std::str::from_utf8(&bytes[..end]).map(str::to_owned).map_err(|_| no_tar())
    };
    let size = u64::from_str_radix(&field(&header[124..136])?, 8).map_err(|_| no_tar())?;
    Ok((field(&header[..100])?, size))
}

fn cut_short(error: io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Refusal::Truncated,
        _ => Refusal::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::*;
    use super::*;

    fn open(bytes: &[u8], key: &str) -> Result<Bundle, Refusal> {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("written");
        file.rewind().expect("rewound");
        Bundle::open(file, &[PublicKey::from_base64(key).expect("a key")], "x86_64")
    }

    /// Opened and looked at whole: in words.
    fn verdict(bytes: &[u8]) -> String {
        let looked_at = open(bytes, KEY).and_then(|mut bundle| bundle.verify());
        looked_at.err().map_or("good".to_owned(), |refusal| refusal.to_string())
    }

    #[test]
    fn a_good_one_is_taken_as_it_is() {
        let mut bundle = open(&good(), KEY).expect("a bundle");
        assert_eq!((bundle.version().to_string(), bundle.size()), ("0.1.0+2.gabc".to_owned(), 17));
        bundle.verify().expect("whole");
        let mut copied = Vec::new();
        bundle.copy(&mut copied).expect("whole");
        assert_eq!(copied, CONTENT.as_bytes());
        // A slot is longer than what is in it.
        let slot = [CONTENT, "and more"].concat();
        assert!(bundle.is_in(&mut slot.as_bytes()).expect("read"));
        assert!(!bundle.is_in(&mut &slot.as_bytes()[1..]).expect("read"));
        assert!(!bundle.is_in(&mut &slot.as_bytes()[..9]).expect("read"));
    }

    #[test]
    fn who_signed_it_decides() {
        let members = |manifest: &str, signed: [&str; 2]| {
            tar(&[
                ("manifest", manifest),
                ("manifest.minisig", &signature(signed)),
                ("root.squashfs", CONTENT),
            ])
        };
        let manifest = manifest("popgate", "x86_64");
        let another = open(&good(), ANOTHER_KEY).expect_err("another's key");
        assert!(matches!(another, Refusal::WrongSignature), "{another}");
        let legacy = open(&members(&manifest, LEGACY), KEY).expect_err("the old kind");
        assert!(matches!(legacy, Refusal::WrongSignature), "{legacy}");
        let moved =
            open(&members(&manifest.replace("+2", "+3"), GOOD), KEY).expect_err("another's signature");
        assert!(matches!(moved, Refusal::WrongSignature), "{moved}");
        for unsigned in [
            tar(&[("manifest", &manifest), ("root.squashfs", CONTENT)]),
            tar(&[("manifest", &manifest), ("manifest.minisig", ""), ("root.squashfs", CONTENT)]),
        ] {
            let unsigned = open(&unsigned, KEY).expect_err("unsigned");
            assert!(matches!(unsigned, Refusal::Unsigned), "{unsigned}");
        }
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&good()).expect("written");
        file.rewind().expect("rewound");
        let untrusting = Bundle::open(file, &[], "x86_64").expect_err("no keys");
        assert!(matches!(untrusting, Refusal::NoKeys), "{untrusting}");
    }

    #[test]
    fn what_is_for_something_else_is_left() {
        for (product, architecture, signed) in
            [("popgate", "riscv64", OTHER_ARCHITECTURE), ("teapot", "x86_64", OTHER_PRODUCT)]
        {
            let manifest = manifest(product, architecture);
            let members = [
                ("manifest", &*manifest),
                ("manifest.minisig", &signature(signed)),
                ("root.squashfs", CONTENT),
            ];
            let refusal = open(&tar(&members), KEY).expect_err("for something else");
            assert!(
                matches!(&refusal, Refusal::NotForThis(what) if [product, architecture].contains(&&**what)),
                "{refusal}"
            );
        }
    }

    #[test]
    fn whatever_byte_is_altered_or_missing_it_is_refused() {
        let good = good();
        assert_eq!(verdict(&good), "good");
        let content_at = good.len() - 512;
        for at in 0..good.len() {
            let mut altered = good.clone();
            altered[at] ^= 0x20;
            // What tar has in its headers besides name, size and kind counts for nothing, nor does what fills a block, nor the
            // comment, which somebody without the key could have written.
            let counts = (content_at..content_at + CONTENT.len()).contains(&at)
                || (512..512 + manifest("popgate", "x86_64").len()).contains(&at);
            assert!(!counts || verdict(&altered) != "good", "byte {at}");
            let told = open(&altered, KEY).map(|bundle| (bundle.version().to_string(), bundle.size()));
            assert!(told.is_err() || told.is_ok_and(|it| it == ("0.1.0+2.gabc".to_owned(), 17)), "byte {at}");
        }
        for length in 0..content_at + CONTENT.len() {
            assert_ne!(verdict(&good[..length]), "good", "{length} bytes");
        }
    }
}

//! Files that are there whole or not at all, whoever writes one of the same name at the same time.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// Whether what a file says must have reached the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasting {
    /// Before it has its name: after a power cut it is whole, or the one before is there.
    Surely,
    /// Some time: what it says can be found out again.
    Perhaps,
}

/// Writes a file whole or not at all, in a folder that is there. Another run may do the same at the same
/// time: one of the two is there afterwards.
pub fn replace(path: &Path, text: &str, lasting: Lasting) -> std::io::Result<()> {
    Nameless::write(path.to_owned(), own_temporary(path), text, lasting)?.rename()
}

/// The same for a file that everybody may read, whatever the umask is.
pub fn publish(path: &Path, text: &str) -> std::io::Result<()> {
    let (path, temporary) = (path.to_owned(), own_temporary(path));
    let nameless = Nameless::write(path, temporary, text, Lasting::Perhaps)?;
    fs::set_permissions(&nameless.temporary, Permissions::from_mode(0o644))?;
    nameless.rename()
}

/// A file that is whole and has not got its name yet. Without one, it is removed.
#[derive(Debug)]
pub(crate) struct Nameless {
    path: PathBuf,
    temporary: PathBuf,
}

impl Nameless {
    /// Writes it.
    pub(crate) fn write(
        path: PathBuf,
        temporary: PathBuf,
        text: &str,
        lasting: Lasting,
    ) -> std::io::Result<Self> {
        let nameless = Self { path, temporary };
        let mut file = File::create(&nameless.temporary)?;
        file.write_all(text.as_bytes())?;
        if lasting == Lasting::Surely {
            file.sync_all()?;
        }
        Ok(nameless)
    }

    /// Gives it its name where nothing else has it.
    pub(crate) fn link(self) -> std::io::Result<()> {
        fs::hard_link(&self.temporary, &self.path)
    }

    /// Gives it its name, whatever has it.
    pub(crate) fn rename(self) -> std::io::Result<()> {
        fs::rename(&self.temporary, &self.path)
    }
}

impl Drop for Nameless {
    fn drop(&mut self) {
        // Where it has got its name, nothing is there any more.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Where a state file is written, by who holds its table's lock, before it gets its name.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    suffixed(path, ".tmp")
}

/// Where a file is written that no lock guards. In containers every process has the same number.
pub(crate) fn own_temporary(path: &Path) -> PathBuf {
    suffixed(path, &format!(".{}.{}.tmp", std::process::id(), Timestamp::now().as_nanosecond()))
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

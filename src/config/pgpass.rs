//! The password file of libpq: `~/.pgpass`, or the one that PGPASSFILE names.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// A password file's text; none where there is no file, and why where it must not be used.
pub(super) fn read(variables: &BTreeMap<String, String>) -> Result<Option<String>, String> {
    let get = |name: &str| variables.get(name).filter(|value| !value.is_empty());
    let Some(path) = get("PGPASSFILE")
        .map(PathBuf::from)
        .or_else(|| get("HOME").map(|home| PathBuf::from(home).join(".pgpass")))
    else {
        return Ok(None);
    };
    let shown = path.display();
    let Ok(metadata) = std::fs::metadata(&path) else { return Ok(None) };
    if !metadata.is_file() {
        return Err(format!("`{shown}` is not a file, and is not used"));
    }
    // libpq ignores such a file as well.
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(format!(
            "`{shown}` can be read by others, and is not used: run `chmod 600 {shown}`"
        ));
    }
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) => Err(format!("`{shown}` cannot be read: {error}")),
    }
}

/// The password of the first line that fits.
pub(super) fn find(
    text: &str,
    host: &str,
    port: u16,
    database: &str,
    user: &str,
) -> Option<String> {
    let port = port.to_string();
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = split(line.trim_end_matches('\r'));
        let [named_host, named_port, named_database, named_user, password, ..] = &fields[..] else {
            return None;
        };
        let fits = |named: &str, value: &str| named == "*" || named == value;
        // The folder of a Unix socket is this host.
        let host_fits =
            fits(named_host, host) || super::is_socket(host) && named_host == "localhost";
        let all_fit = host_fits
            && fits(named_port, &port)
            && fits(named_database, database)
            && fits(named_user, user);
        all_fit.then(|| password.clone())
    })
}

/// The fields of a line, between colons; a backslash takes the meaning from what follows it. There
/// may be more than five, of which libpq takes no notice.
fn split(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        let last = fields.len() - 1;
        match character {
            ':' => fields.push(String::new()),
            // At the end of a line it stands for itself.
            '\\' => fields[last].push(characters.next().unwrap_or(character)),
            other => fields[last].push(other),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_counts() {
        let text = "# host:port:database:user:password\n\
                    db:5433:shop:reader:first\r\n\
                    db:*:*:reader:any\\:thing\\\\\n\
                    \\:\\:1:*:*:*:six\n\
                    localhost:*:*:*:here\n\
                    colons:*:*:*:its:rest\n\
                    backslash:*:*:*:last\\\n\
                    broken line\n";
        let find = |host, port, database, user| find(text, host, port, database, user);
        assert_eq!(find("db", 5433, "shop", "reader").as_deref(), Some("first"));
        assert_eq!(find("db", 5432, "shop", "reader").as_deref(), Some("any:thing\\"));
        assert_eq!(find("::1", 1, "d", "u").as_deref(), Some("six"));
        assert_eq!(find("/run/postgresql", 1, "d", "u").as_deref(), Some("here"));
        assert_eq!(find("colons", 1, "d", "u").as_deref(), Some("its"));
        assert_eq!(find("backslash", 1, "d", "u").as_deref(), Some("last\\"));
        assert_eq!(find("db", 5433, "shop", "writer"), None);
    }

    #[test]
    fn a_file_that_others_can_read_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pass");
        let variables = BTreeMap::from([("PGPASSFILE".to_owned(), path.display().to_string())]);
        assert_eq!(read(&variables), Ok(None));
        std::fs::write(&path, "*:*:*:*:x").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(read(&variables).unwrap_err().contains("chmod 600"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(read(&variables), Ok(Some("*:*:*:*:x".to_owned())));
        assert_eq!(read(&BTreeMap::new()), Ok(None));
    }
}

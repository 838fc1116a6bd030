//! How a site gets its certificate, and how it is told by name afterwards. The consortium keeps each certificate that it
//! issued as `sites/NAME.pem`, with the site's number in a line before the PEM text (RFC 7468 allows such lines).

use std::{
    fs,
    path::{Path, PathBuf},
};

use semisam_shared::{
    ids::{SiteId, UnixMillis},
    issue::{self, IssueError, Role},
    round::Federation,
};

use crate::{
    disk::{self, DiskError},
    folder::{Folder, FolderError},
};

const SITE_LINE: &str = "Site: ";

/// A certificate that was issued to a site.
#[derive(Clone, Debug)]
pub struct Enrolled {
    /// The name in the request.
    pub name: String,
    /// The fingerprint to compare by telephone.
    pub site: SiteId,
    /// Where the coordinator keeps the certificate.
    pub certificate: PathBuf,
    /// The certificate.
    pub pem: String,
}

/// A site cannot be enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The request or the authority.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The file system.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The site was excluded.
    #[error("site {0} was excluded: it needs a new key (a new `semisam-node init`), and so a new ledger")]
    Revoked(SiteId),
    /// Another site has that name.
    #[error(
        "another site, {other}, has the name `{name}`: revoke that one first, or let the new one choose another name"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        other: SiteId,
    },
}

/// Issues a certificate for the request of a site. The same key may come again: that is a renewal.
///
/// # Errors
/// If the request is not sound, or its key or name is not free.
pub fn enrol(folder: &Folder, request: &str, days: u32, now: UnixMillis) -> Result<Enrolled, EnrolError> {
    let (name, site) = issue::describe_request(request)?;
    let revoked = folder.read_revoked()?;
    if revoked.contains(&site) {
        return Err(EnrolError::Revoked(site));
    }
    let certificate = folder.site_certificate(&name);
    if let Some(other) = site_in(&certificate).filter(|other| *other != site && !revoked.contains(other)) {
        return Err(EnrolError::NameTaken { name, other });
    }
    let read = |path: PathBuf| fs::read_to_string(&path).map_err(DiskError::at("read", &path));
    let (authority, key) = (read(folder.authority_certificate())?, read(folder.authority_key())?);
    let pem = issue::sign_request(&authority, &key, request, &Role::Site, days, now)?;
    disk::make_folder(&folder.sites())?;
    disk::write(&certificate, format!("{SITE_LINE}{site}\n{pem}").as_bytes())?;
    Ok(Enrolled { name, site, certificate, pem })
}

/// The site whose certificate is in a file of `sites/`, if there is one.
fn site_in(certificate: &Path) -> Option<SiteId> {
    let text = fs::read_to_string(certificate).ok()?;
    text.lines().find_map(|line| line.strip_prefix(SITE_LINE))?.trim().parse().ok()
}

/// A text names no site, or several.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    /// Nobody.
    #[error("no site is called `{0}`: give the name in its certificate, or its number of 64 hex digits")]
    Unknown(String),
    /// More than one.
    #[error("several sites are called `{name}`: give the number of one, {sites}")]
    Several {
        /// The name.
        name: String,
        /// Their numbers.
        sites: String,
    },
}

/// The site that `text` names: its number, or the name of a member or of an issued certificate.
///
/// # Errors
/// If it names none or several.
pub fn find(folder: &Folder, federation: &Federation, text: &str) -> Result<SiteId, NameError> {
    if let Ok(site) = text.parse() {
        return Ok(site);
    }
    let members = federation.members.iter().filter(|(_, member)| member.name == text).map(|(site, _)| *site);
    let mut sites: Vec<SiteId> = members.chain(site_in(&folder.site_certificate(text))).collect();
    sites.sort();
    sites.dedup();
    match sites[..] {
        [] => Err(NameError::Unknown(text.chars().take(80).collect())),
        [site] => Ok(site),
        _ => {
            let sites: Vec<String> = sites.iter().map(SiteId::to_string).collect();
            Err(NameError::Several { name: text.to_owned(), sites: sites.join(", ") })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use semisam_shared::clock;

    #[test]
    fn a_name_belongs_to_one_key_until_that_is_excluded() {
        let root = tempfile::tempdir().expect("folder");
        let folder = Folder::new(root.path());
        disk::make_folder(&root.path().join("consortium")).expect("made");
        let authority = issue::new_authority("test", 30, clock::now()).expect("made");
        disk::write(&folder.authority_certificate(), authority.certificate_pem.as_bytes()).expect("written");
        issue::write_private(&folder.authority_key(), &authority.key_pem).expect("written");
        let [first, second] = [(); 2].map(|()| issue::new_request("north").expect("made"));
        let enrol = |request: &issue::Request| enrol(&folder, &request.csr_pem, 7, clock::now());
        let enrolled = enrol(&first).expect("enrolled");
        assert_eq!((enrolled.site, enrolled.name.as_str()), (first.site, "north"));
        enrol(&first).expect("renewed");
        assert!(matches!(enrol(&second), Err(EnrolError::NameTaken { other, .. }) if other == first.site));
        let find = |text: &str| find(&folder, &Federation::default(), text);
        assert_eq!(find("north").expect("known"), first.site);
        assert_eq!(find(&second.site.to_string()).expect("a number"), second.site);
        assert!(matches!(find("nowhere"), Err(NameError::Unknown(_))));
        folder.write_revoked(&[first.site]).expect("written");
        assert!(matches!(enrol(&first), Err(EnrolError::Revoked(_))));
        assert_eq!(enrol(&second).expect("the name is free").site, second.site);
    }
}

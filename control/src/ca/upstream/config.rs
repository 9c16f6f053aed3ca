//! The table `[ca.upstream]` of the settings: which CA signs our intermediates, and how control proves itself there.

use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Deserialize;

use crate::config::TableError;
use crate::fetch::Url;

const KIND: &str = "vault";
const MOUNT: &str = "pki";
/// Longest path of a mount, name of an issuer, a namespace or a role.
const MAX_NAME: usize = 256;

/// A Vault or OpenBao, and who control is to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// Where it signs.
    pub(super) sign: Url,
    pub(super) namespace: Option<String>,
    /// The only authorities that are believed when it is called; otherwise the system's.
    pub(super) ca_file: Option<PathBuf>,
    pub(super) proof: Proof,
}

/// How control proves itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Proof {
    /// A token that somebody keeps alive, read each time.
    Token(PathBuf),
    /// A role, and its secret in a file.
    AppRole { login: Url, role_id: String, secret_id_file: PathBuf },
    /// The service account of a pod.
    Kubernetes { login: Url, role: String, token_file: PathBuf },
}

/// The table as it is written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Table {
    kind: String,
    url: String,
    mount: Option<String>,
    issuer: Option<String>,
    namespace: Option<String>,
    ca_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
    approle: Option<AppRole>,
    kubernetes: Option<Kubernetes>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct AppRole {
    mount: Option<String>,
    role_id: String,
    secret_id_file: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Kubernetes {
    mount: Option<String>,
    role: String,
    token_file: Option<PathBuf>,
}

/// Where a pod has the token of its service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// An operator on everything named the host: it may be inside.
pub(super) fn everywhere() -> Vec<IpNet> {
    vec![IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())]
}

impl UpstreamConfig {
    /// Reads the table.
    ///
    /// # Errors
    /// The first mistake, with its key.
    pub fn read(table: toml::Table) -> Result<Self, TableError> {
        let table: Table = TableError::deserialize(table)?;
        if table.kind != KIND {
            return Err(TableError::expected("kind", "\"vault\" (also for OpenBao)", &table.kind));
        }
        let url = Url::parse(&table.url, &everywhere());
        let url = url.map_err(|error| TableError::expected("url", error, &table.url))?;
        if url.has_query() {
            let expected = "a URL without query, such as https://vault.example:8200";
            return Err(TableError::expected("url", expected, &table.url));
        }
        let mount = path("mount", table.mount.as_deref().unwrap_or(MOUNT))?;
        let sign = match &table.issuer {
            None => format!("v1/{mount}/root/sign-intermediate"),
            Some(issuer) => format!("v1/{mount}/issuer/{}/sign-intermediate", segment("issuer", issuer)?),
        };
        let at = |path: &str| {
            url.join(path, &everywhere()).map_err(|error| TableError::expected("url", error, &table.url))
        };
        let login = |mount: &str| at(&format!("v1/auth/{mount}/login"));
        let proof = match (table.token_file, table.approle, table.kubernetes) {
            (Some(file), None, None) => Proof::Token(file),
            (None, Some(approle), None) => {
                let below = |error: TableError| error.below("approle");
                let mount = approle.mount.as_deref().unwrap_or("approle");
                Proof::AppRole {
                    login: login(path("mount", mount).map_err(below)?)?,
                    role_id: segment("role-id", &approle.role_id).map_err(below)?.to_owned(),
                    secret_id_file: approle.secret_id_file,
                }
            }
            (None, None, Some(kubernetes)) => {
                let below = |error: TableError| error.below("kubernetes");
                let mount = kubernetes.mount.as_deref().unwrap_or("kubernetes");
                Proof::Kubernetes {
                    login: login(path("mount", mount).map_err(below)?)?,
                    role: segment("role", &kubernetes.role).map_err(below)?.to_owned(),
                    token_file: kubernetes.token_file.unwrap_or_else(|| SERVICE_ACCOUNT.into()),
                }
            }
            (None, None, None) => {
                let message = "expected one of `token-file`, `approle` and `kubernetes`: how control proves \
                               itself there";
                return Err(TableError { path: Vec::new(), message: message.to_owned() });
            }
            _ => {
                let message = "expected only one of `token-file`, `approle` and `kubernetes`";
                return Err(TableError { path: Vec::new(), message: message.to_owned() });
            }
        };
        let namespace =
            table.namespace.as_deref().map(|namespace| path("namespace", namespace)).transpose()?;
        Ok(Self { sign: at(&sign)?, namespace: namespace.map(str::to_owned), ca_file: table.ca_file, proof })
    }
}

/// A path as it stands in a URL, without `/` at its ends.
fn path<'t>(key: &str, text: &'t str) -> Result<&'t str, TableError> {
    let path = text.trim_matches('/');
    if path.len() <= MAX_NAME && path.split('/').all(is_plain) {
        return Ok(path);
    }
    Err(TableError::expected(
        key,
        "a path such as `pki` or `team/pki`: of letters, digits, `.`, `_`, `-`",
        &text,
    ))
}

fn segment<'t>(key: &str, text: &'t str) -> Result<&'t str, TableError> {
    if text.len() <= MAX_NAME && is_plain(text) {
        return Ok(text);
    }
    Err(TableError::expected(key, "a name of letters, digits, `.`, `_`, `-`", &text))
}

/// What nobody escapes or normalizes.
fn is_plain(segment: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !segment.is_empty() && segment.bytes().all(plain) && !segment.bytes().all(|byte| byte == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str =
        "kind = \"vault\"\nurl = \"https://vault.example:8200\"\ntoken-file = \"/run/token\"\n";

    fn read(text: &str) -> Result<UpstreamConfig, TableError> {
        UpstreamConfig::read(text.parse().unwrap())
    }

    #[test]
    fn where_it_signs_is_below_mount_and_issuer() {
        let signs = |text: &str| read(text).unwrap().sign.to_string();
        assert_eq!(signs(TOKEN), "https://vault.example:8200/v1/pki/root/sign-intermediate");
        let more = format!("{TOKEN}mount = \"/team/pki/\"\nissuer = \"mesh-2026\"\n");
        assert_eq!(signs(&more), "https://vault.example:8200/v1/team/pki/issuer/mesh-2026/sign-intermediate");
        let behind = TOKEN.replace(":8200", "/vault/");
        assert_eq!(signs(&behind), "https://vault.example/vault/v1/pki/root/sign-intermediate");
        assert_eq!(
            signs(&TOKEN.replace("https://vault.example", "http://127.0.0.1")),
            "http://127.0.0.1:8200/v1/pki/root/sign-intermediate",
            "an agent on this machine"
        );
    }

    #[test]
    fn control_proves_itself_in_one_way() {
        assert_eq!(read(TOKEN).unwrap().proof, Proof::Token("/run/token".into()));
        let bare = TOKEN.replace("token-file = \"/run/token\"\n", "");
        let role = format!("{bare}approle = {{ role-id = \"a-b\", secret-id-file = \"/s\" }}\n");
        assert!(matches!(
            read(&role).unwrap().proof,
            Proof::AppRole { login, .. } if login.to_string() == "https://vault.example:8200/v1/auth/approle/login"
        ));
        let pod = format!("{bare}kubernetes = {{ role = \"signet\", mount = \"east\" }}\n");
        assert!(matches!(
            read(&pod).unwrap().proof,
            Proof::Kubernetes { login, token_file, .. } if login.to_string().ends_with("/v1/auth/east/login")
                && token_file.to_string_lossy() == SERVICE_ACCOUNT
        ));
        assert!(read(&bare).unwrap_err().message.contains("one of `token-file`"));
        let both = format!("{role}token-file = \"/t\"\n");
        assert!(read(&both).unwrap_err().message.contains("only one of"));
    }

    #[test]
    fn mistakes_name_their_key() {
        for (text, key, told) in [
            (TOKEN.replace("\"vault\"", "\"venafi\""), "kind", "also for OpenBao"),
            (TOKEN.replace("https:", "http:"), "url", "https"),
            (TOKEN.replace(":8200", ":8200/?a=b"), "url", "without query"),
            (format!("{TOKEN}mount = \"a//b\"\n"), "mount", "a path such as"),
            (format!("{TOKEN}mount = \"a/../sys\"\n"), "mount", "a path such as"),
            (format!("{TOKEN}issuer = \"a/b\"\n"), "issuer", "a name of"),
            (format!("{TOKEN}namespace = \"a\\nb\"\n"), "namespace", "a path such as"),
            (format!("{TOKEN}tokenfile = \"x\"\n"), "tokenfile", "unknown field"),
        ] {
            let error = read(&text).unwrap_err();
            assert_eq!(error.path, [key], "{text}");
            assert!(error.message.contains(told), "{error}");
        }
    }
}

//! Compiles `signet/v1/*.proto` with protox, so that no `protoc` is needed; and lists every call of every
//! service as an enum, so that whoever decides by call cannot leave one out. `standard/` holds what others define: the
//! SPIFFE Workload API, and of Envoy's discovery what secrets need.

use std::error::Error;
use std::fmt::Write;
use std::path::PathBuf;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let files =
        ["identity", "mesh", "report", "inventory", "admin"].map(|name| format!("signet/v1/{name}.proto"));
    println!("cargo::rerun-if-changed=signet");
    let descriptors = protox::compile(files, ["."])?;
    let mut calls = Vec::new();
    for file in &descriptors.file {
        for service in &file.service {
            let methods = service.method.iter().map(|method| method.name().to_owned());
            calls.extend(methods.map(|method| Call {
                package: file.package().to_owned(),
                service: service.name().to_owned(),
                method,
            }));
        }
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(out.join("verbs.rs"), verbs(&calls)?)?;
    tonic_prost_build::configure().codec_path("crate::codec::LeanCodec").compile_fds(descriptors)?;
    standard()
}

fn standard() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=standard");
    let files = ["spiffe/workload.proto", "envoy/secret.proto", "envoy/tls.proto"];
    tonic_prost_build::configure()
        .codec_path("crate::codec::LeanCodec")
        .include_file("standard.rs")
        // They hold private keys.
        .skip_debug([".X509SVID", ".envoy.config.core.v3.DataSource"])
        .compile_fds(protox::compile(files, ["standard"])?)?;
    Ok(())
}

struct Call {
    package: String,
    service: String,
    method: String,
}

impl Call {
    fn variant(&self) -> String {
        format!("{}{}", self.service, self.method)
    }

    fn path(&self) -> String {
        format!("/{}.{}/{}", self.package, self.service, self.method)
    }
}

fn verbs(calls: &[Call]) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    writeln!(
        text,
        "/// Every call of every service of `signet/v1/*.proto`. Not `non_exhaustive`: whoever decides"
    )?;
    writeln!(text, "/// by call shall not compile when there is a new one.")?;
    writeln!(text, "#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]")?;
    writeln!(text, "pub enum Verb {{")?;
    for call in calls {
        writeln!(text, "    /// `{}`.\n    {},", call.path(), call.variant())?;
    }
    writeln!(text, "}}\n\nimpl Verb {{")?;
    writeln!(text, "    /// All of them, as they are defined.\n    pub const ALL: &'static [Self] = &[")?;
    for call in calls {
        writeln!(text, "        Self::{},", call.variant())?;
    }
    writeln!(text, "    ];\n")?;
    let columns = [
        ("path", "The path of its requests, such as `/signet.v1.Admin/Status`."),
        ("service", "The service it is of, such as `Admin`."),
        ("method", "Its name in the service, such as `Status`."),
    ];
    for (column, meaning) in columns {
        writeln!(text, "    /// {meaning}\n    #[must_use]")?;
        writeln!(text, "    pub const fn {column}(self) -> &'static str {{\n        match self {{")?;
        for call in calls {
            let value = match column {
                "path" => call.path(),
                "service" => call.service.clone(),
                _ => call.method.clone(),
            };
            writeln!(text, "            Self::{} => {value:?},", call.variant())?;
        }
        writeln!(text, "        }}\n    }}\n")?;
    }
    writeln!(text, "    /// The call whose requests have exactly this path.\n    #[must_use]")?;
    writeln!(text, "    pub fn from_path(path: &str) -> Option<Self> {{\n        match path {{")?;
    for call in calls {
        writeln!(text, "            {:?} => Some(Self::{}),", call.path(), call.variant())?;
    }
    writeln!(text, "            _ => None,\n        }}\n    }}\n}}")?;
    Ok(text)
}

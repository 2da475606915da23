//! Where the server is, as a person writes it and as a WebSocket needs it.

use std::fmt;

use url::Url;

/// A server's `/graphql`, by `ws` or `wss`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address(Url);

impl Address {
    /// Reads `http://…`, `https://…`, `ws://…` or `wss://…`; the path of the endpoint is added unless it stands there.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut url = Url::parse(text.trim()).map_err(|error| format!("not a URL, {error}"))?;
        let scheme = match url.scheme() {
            "http" | "ws" => "ws",
            "https" | "wss" => "wss",
            _ => return Err("http://… or https://… is expected".to_owned()),
        };
        if url.host_str().is_none() || !url.username().is_empty() || url.password().is_some() {
            return Err("a host, and no user, is expected".to_owned());
        }
        url.set_scheme(scheme)
            .map_err(|()| "it has another scheme".to_owned())?;
        let path = url.path().trim_end_matches('/').to_owned();
        if !path.ends_with("/graphql") {
            url.set_path(&format!("{path}/graphql"));
        }
        url.set_query(None);
        url.set_fragment(None);
        Ok(Self(url))
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_a_server_leads_to_its_endpoint() {
        for (written, meant) in [
            ("http://localhost:7730", "ws://localhost:7730/graphql"),
            ("https://example.com/", "wss://example.com/graphql"),
            ("ws://10.0.0.1:1/graphql", "ws://10.0.0.1:1/graphql"),
            ("wss://h/below/it", "wss://h/below/it/graphql"),
        ] {
            let address = Address::parse(written).map(|address| address.to_string());
            assert_eq!(address.as_deref(), Ok(meant));
        }
        for wrong in ["", "localhost:7730", "ftp://h", "http://user:secret@h/"] {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
    }
}

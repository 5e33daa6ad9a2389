//! What a lab keeps on disk, and where: keys, rendered configurations, appliances' state, logs.

use super::LabError;
use super::render::{Keys, Renderer};
use super::topology::{Node, NodeKind, Topology, WireGuard};
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Makes keys and renders every node's files below `work_dir`, as `up` would, and nothing else: the configuration
/// directory of each appliance, by its name. For checking a lab's configurations without bringing it up.
///
/// # Errors
/// A template cannot be read or has a placeholder that does not exist; `work_dir` cannot be written to.
pub fn render(topology: &Topology, work_dir: &Path) -> Result<Vec<(String, PathBuf)>, LabError> {
    let files = Files::at(work_dir)?;
    files.make(topology)?;
    let appliances = topology.nodes.iter().filter(|node| matches!(node.kind, NodeKind::Appliance { .. }));
    Ok(appliances.map(|node| (node.name.clone(), files.config_dir(&node.name))).collect())
}

/// A lab's work directory.
#[derive(Debug)]
pub(super) struct Files {
    work_dir: PathBuf,
}

impl Files {
    /// Below `work_dir`, wherever a process that is told of a file may run.
    pub(super) fn at(work_dir: &Path) -> Result<Files, LabError> {
        let absolute = std::path::absolute(work_dir);
        Ok(Files { work_dir: absolute.map_err(LabError::io(format!("finding {}", work_dir.display())))? })
    }

    pub(super) fn work_dir(&self) -> &Path {
        &self.work_dir
    }

    fn keys_dir(&self) -> PathBuf {
        self.work_dir.join("keys")
    }

    pub(super) fn node_dir(&self, node: &str) -> PathBuf {
        self.work_dir.join("nodes").join(node)
    }

    pub(super) fn config_dir(&self, node: &str) -> PathBuf {
        self.node_dir(node).join("config")
    }

    pub(super) fn state_dir(&self, node: &str) -> PathBuf {
        self.node_dir(node).join("state")
    }

    pub(super) fn wireguard_conf(&self, node: &str) -> PathBuf {
        self.node_dir(node).join("wg.conf")
    }

    pub(super) fn log(&self, node: &str) -> PathBuf {
        self.work_dir.join(format!("{node}.log"))
    }

    /// All that [`Files::make`] makes, in the order in which it can be removed.
    pub(super) fn all_of(&self, topology: &Topology) -> Vec<PathBuf> {
        let mut made = vec![self.keys_dir(), self.work_dir.join("nodes")];
        made.extend(topology.nodes.iter().map(|node| self.log(&node.name)));
        if !self.work_dir.exists() {
            made.push(self.work_dir.clone());
        }
        made
    }

    pub(super) fn make(&self, topology: &Topology) -> Result<(), LabError> {
        let failed = |path: &Path| LabError::io(format!("making {}", path.display()));
        let mut private = DirBuilder::new();
        private.recursive(true).mode(0o700);
        for directory in [&self.work_dir, &self.keys_dir()] {
            private.create(directory).map_err(failed(directory))?;
        }
        let keys = Keys::new(self.keys_dir());
        for node in &topology.nodes {
            let (log, directory) = (self.log(&node.name), self.node_dir(&node.name));
            let (config_dir, state_dir) = (self.config_dir(&node.name), self.state_dir(&node.name));
            File::create(&log).map_err(failed(&log))?;
            private.create(&directory).map_err(failed(&directory))?;
            let renderer = Renderer { keys: &keys, state_dir: &state_dir };
            match &node.kind {
                NodeKind::Appliance { config, tenants, tenant_files } => {
                    private.create(&state_dir).map_err(failed(&state_dir))?;
                    if let Some(config) = config {
                        renderer.directory(config, &config_dir)?;
                    }
                    for name in tenant_files {
                        let file = format!("{name}.toml");
                        let source = tenants.as_deref().unwrap_or(&topology.base).join(&file);
                        renderer.file(&source, &config_dir.join("tenants").join(&file))?;
                    }
                    self.write_files(node, &renderer, &config_dir)?;
                    self.check_state_dir(node, &config_dir.join("popgate.toml"), &state_dir)?;
                }
                NodeKind::WireGuard(wireguard) => {
                    self.write_files(node, &renderer, &directory)?;
                    self.write_wireguard(node, wireguard, &keys, &renderer)?;
                }
                NodeKind::Host | NodeKind::Router => self.write_files(node, &renderer, &directory)?,
            }
        }
        Ok(())
    }

    fn write_files(&self, node: &Node, renderer: &Renderer<'_>, to: &Path) -> Result<(), LabError> {
        for (name, text) in &node.files {
            renderer.text(text, &format!("node \"{}\": {name}", node.name), &to.join(name))?;
        }
        Ok(())
    }

    /// An appliance that kept its state elsewhere would meet itself there at the next `up`, or a real one.
    fn check_state_dir(&self, node: &Node, file: &Path, state_dir: &Path) -> Result<(), LabError> {
        let text = fs::read_to_string(file).map_err(LabError::io(format!("reading {}", file.display())))?;
        // What else may be wrong with it `popgate` says better.
        let Ok(document) = toml::from_str::<toml::Table>(&text) else { return Ok(()) };
        match document.get("state-dir").and_then(|value| value.as_str()) {
            Some(configured) if Path::new(configured).starts_with(state_dir) => Ok(()),
            _ => Err(LabError::Problems(vec![format!(
                "node \"{}\": popgate.toml must say `state-dir = \"@state-dir@\"`",
                node.name
            )])),
        }
    }

    /// `wg setconf`'s file.
    fn write_wireguard(
        &self,
        node: &Node,
        wireguard: &WireGuard,
        keys: &Keys,
        renderer: &Renderer<'_>,
    ) -> Result<(), LabError> {
        let path = self.wireguard_conf(&node.name);
        let write = || {
            let private_key = fs::read_to_string(keys.private_key_file(&wireguard.key)?)?;
            let mut text = format!("[Interface]\nPrivateKey = {}\n", private_key.trim());
            if let Some(port) = wireguard.listen_port {
                let _ = writeln!(text, "ListenPort = {port}");
            }
            for peer in &wireguard.peers {
                let public_key = renderer.line(&peer.public_key).map_err(io::Error::other)?;
                let _ = writeln!(text, "[Peer]\nPublicKey = {public_key}");
                if let Some(preshared_key) = &peer.preshared_key {
                    // A template's placeholder is the key file's path; `wg` wants the key itself.
                    let preshared_key = renderer.line(preshared_key).map_err(io::Error::other)?;
                    let preshared_key = fs::read_to_string(&preshared_key).unwrap_or(preshared_key);
                    let _ = writeln!(text, "PresharedKey = {}", preshared_key.trim());
                }
                if let Some(endpoint) = peer.endpoint {
                    let _ = writeln!(text, "Endpoint = {endpoint}");
                }
                if let Some(keepalive) = peer.persistent_keepalive {
                    let _ = writeln!(text, "PersistentKeepalive = {}", keepalive.0.as_secs());
                }
                let prefixes: Vec<String> = peer.allowed_ips.iter().map(ToString::to_string).collect();
                let _ = writeln!(text, "AllowedIPs = {}", prefixes.join(","));
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(text.as_bytes())
        };
        write().map_err(LabError::io(format!("configuring WireGuard of node {}", node.name)))
    }
}

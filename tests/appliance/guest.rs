//! Another machine in QEMU: the image's kernel and programs without its boot, running a script of a test's. It has what this
//! machine's kernel may lack: VLANs, WireGuard.

use crate::machine::must;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// What it starts from.
pub struct Guest {
    directory: TempDir,
}

/// As the first process: mounts the root file system of the image, which is the first disk, and runs the script in it.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev
for module in $(cat /modules); do insmod $module; done
until [ -e /dev/vda ]; do sleep 0.05; done
mount -t squashfs -o ro /dev/vda /new
for it in proc sys dev; do mount --move /$it /new/$it; done
for it in run tmp var etc/netns; do mount -t tmpfs tmpfs /new/$it 2>/dev/null; done
mkdir -p /new/run/netns /new/var/lib/misc
cp /script /wg /new/tmp/
exec chroot /new /usr/bin/env -i PATH=/tmp:/usr/sbin:/usr/bin:/sbin:/bin /usr/bin/sh /tmp/script
";

impl Guest {
    /// One that runs `script`, as sh reads it.
    pub fn new(script: &str) -> Guest {
        let directory = tempfile::tempdir().expect("a directory");
        let work = directory.path().join("work");
        fs::create_dir(&work).expect("made");
        for (name, text) in [("init", INIT), ("script", script)] {
            fs::write(work.join(name), text).expect("written");
        }
        let made = "
            cd \"$work\"; mkdir -p bin dev proc sys new lib; chmod 755 init
            cp \"$tree/usr/bin/busybox\" bin/; cp \"$(command -v wg)\" wg
            kernel=$(basename \"$tree\"/usr/lib/modules/*)
            for module in virtio_pci virtio_blk virtio_net squashfs; do
                modprobe --dirname \"$tree/usr\" --set-version \"$kernel\" --show-depends $module
            done | sed -n 's/^insmod \\([^ ]*\\).*/\\1/p' | awk '!seen[$0]++' | while read -r path; do
                cp \"$path\" lib/; echo /lib/$(basename \"$path\") >>modules
            done
            find . | cpio --create --format=newc --quiet >\"$work.cpio\"";
        must(Command::new("bash").args(["-ec", made]).env("work", &work).env("tree", tree()));
        Guest { directory }
    }

    /// What QEMU is told instead of a disk to boot from.
    pub fn arguments(&self) -> Vec<String> {
        let initrd = self.directory.path().join("work.cpio");
        let root = crate::machine::image_file("squashfs");
        let drive = format!("file={},if=virtio,format=raw,readonly=on", root.display());
        let kernel = tree().join("boot/vmlinuz").display().to_string();
        let words = ["-kernel", &kernel, "-initrd", &initrd.display().to_string(), "-drive", &drive]
            .map(str::to_owned)
            .to_vec();
        words.into_iter().chain(["-append".to_owned(), "console=ttyS0 quiet panic=-1".to_owned()]).collect()
    }
}

/// Of the image: it is static, and runs anywhere.
pub fn busybox() -> PathBuf {
    tree().join("usr/bin/busybox")
}

/// The files that the image was made of.
fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/appliance/tree")
}

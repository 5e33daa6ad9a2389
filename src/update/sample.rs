//! Updates for tests: signed ones, for keys that are nobody's.

/// minisign has made these, for keys that are nobody's any more.
pub(super) const KEY: &str = "RWSTsArd/Znm9qRAZ3CjEmOqrbKeNpFB6HOFItlVB68hV3CZ+At5n7+s";
pub(super) const ANOTHER_KEY: &str = "RWRkzOlAmquFBqiYnilr8RAo5jmqJY9pwhKjin79HolTjZMuXicJ5an2";
pub(super) const GOOD: [&str; 2] = [
    "RUSTsArd/Znm9gvfz3cItydvMiga769dSZwfBgIyihi+a1qLYEkDDMbuH3amFHRWnvRYh5fN4+mVXBYbOVH0g1lw9Xm21wtoTAU=",
    "1DspQ3F4PP7MFQyjOvVJdNPAl/+TuONy3+TnQzglukiA/jsHgSYs+07LNAJSQ6x1okSpq3YEze+u0NpIq2BeDA==",
];
pub(super) const OTHER_ARCHITECTURE: [&str; 2] = [
    "RUSTsArd/Znm9lLvAuZURfYXAdHk8Zsp6jbZGXyG/jW2husTWL9G2VbeDz+Csom21EmGSgXpfmpRNbuA4tNhaQQqPDj6zUbiBQQ=",
    "DtgSh2upq3fsOQRmiNcURvVKYUKkyjcb4RC5TTacCwwYy2YsStE8PTO3hRjtiCmt6IETcyKIw7xP5yVa97YuAA==",
];
pub(super) const OTHER_PRODUCT: [&str; 2] = [
    "RUSTsArd/Znm9hbv/i/uQUWaAoWLfc2kkQulvSi97H1AxhUvujG8cUi/ck5lCmCbnqre68PwC13K1pnxrrLusrBndHiU2csirAU=",
    "Em2dDddPY/LC1eGqcmji6gxQQT07njGYEV220AyYH57/YbJoj2gPMEiufcjaXFZCItIyDmcyWz0Efs6VnSsHDA==",
];
/// Of the kind that is not hashed first.
pub(super) const LEGACY: [&str; 2] = [
    "RWSTsArd/Znm9oIupLvem7mFw5ob+nF7WjA+cSwtpXrQZm/EjyNilNHTP02wQ69cWLybHZAZY7JyI6DgF29jk8GvHlND83bAKQ8=",
    "dedRPhSsPGxHS2s5DyuvHHDDmCFJ17kJIjdgn9VvRhDa7CUC5kaknrUSFa2u0+0Im+AcSjWxEJJazf94oVdnCA==",
];
pub(super) const CONTENT: &str = "what is in a slot";

pub(super) fn manifest(product: &str, architecture: &str) -> String {
    format!(
        "product = \"{product}\"\narchitecture = \"{architecture}\"\nversion = \"0.1.0+2.gabc\"\nsize = 17\n\
         sha256 = \"de37621653474e1e3ee6615eb09d891e85e4780a869cffdbb70e11f4cc4c7326\"\n"
    )
}

pub(super) fn signature([signature, of_comment]: [&str; 2]) -> String {
    format!("untrusted comment: signature\n{signature}\ntrusted comment: popgate\n{of_comment}\n")
}

pub(super) fn tar(members: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (name, content) in members {
        let mut header = [0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[156] = b'0';
        header[257..262].copy_from_slice(b"ustar");
        tar.extend(header);
        tar.extend(content.as_bytes());
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar
}

pub(super) fn good() -> Vec<u8> {
    tar(&[
        ("manifest", &manifest("popgate", "x86_64")),
        ("manifest.minisig", &signature(GOOD)),
        ("root.squashfs", CONTENT),
    ])
}

//! Makes the console's build a part of this one: when `web/dist` changes, the binary is linked anew.

fn main() -> std::io::Result<()> {
    // Cargo takes a watched path that does not exist for one that has just changed, and would build everything again
    // every time. So the folder exists, empty until `npm run build` fills it.
    std::fs::create_dir_all("web/dist")?;
    println!("cargo:rerun-if-changed=web/dist");
    Ok(())
}

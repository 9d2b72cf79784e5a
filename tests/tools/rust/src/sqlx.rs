//! sqlx-cli's command: cargo's lock file holds for a package of one's own, not for one that it installs.

use clap::Parser;

#[tokio::main]
async fn main() {
    if let Err(error) = sqlx_cli::run(sqlx_cli::Opt::parse()).await {
        println!("error: {error}");
        std::process::exit(1);
    }
}

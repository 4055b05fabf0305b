"""Speed and memory of networks. Start with `config` for the settings and `compare.run_bench` for a whole run."""

// Package config is the operator's configuration: a TOML file, drop-ins beside
// it, and defaults which need no file at all.
//
// The file is $HYPER_CONFIG or /etc/hyper/config.toml. Drop-ins are the *.toml
// files in the directories config.toml.d and config.d beside it, read in the
// lexical order of their names; what is read later wins, key by key.
//
// Reading is strict. A key that is not known or a value that is not allowed is
// an error which names the file, the line, the key and what is allowed: a
// misspelt limit must not silently become no limit.
package config

// Package agentv1 is the agent's API, generated from agent.proto.
package agentv1

//go:generate sh -c "cd ../../.. && protoc -I . --plugin=protoc-gen-go=$(go tool -n protoc-gen-go) --plugin=protoc-gen-go-ttrpc=$(go tool -n protoc-gen-go-ttrpc) --go_out=. --go_opt=paths=source_relative --go-ttrpc_out=. --go-ttrpc_opt=paths=source_relative hyper/agent/v1/agent.proto"

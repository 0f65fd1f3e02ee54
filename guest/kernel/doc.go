// Package kernel holds the configuration of HyperKernel, the script that builds it, and the test that boots
// both guest kernels and asks them what they can do. It has no code of its own.
//
// HyperKernel is configured up from nothing: `config` lists what is in it, by group and with the reason where
// it is not plain. `build` compiles it from the distribution's kernel source into the cache, and fails when a
// line of `config` did not take effect. Everything is built in, so a guest can load nothing later, and
// the image needs no modules.
package kernel

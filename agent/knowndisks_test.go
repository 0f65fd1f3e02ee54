package agent

import "testing"

func TestKnownDisks(t *testing.T) {
	var k knownDisks
	if _, known := k.take("image1"); known {
		t.Error("a disk is known before any was looked for")
	}
	class := blockClassOf(t, map[string]string{
		"vda/serial": "image1\n", "vda/dev": "254:0\n",
		"vdb/serial": "scratch1\n", "vdb/dev": "254:16\n",
		"loop0/dev": "7:0\n",
	})
	if err := k.learn(class); err != nil {
		t.Fatal(err)
	}
	if device, known := k.take("scratch1"); !known || device != (blockDevice{254, 16}) {
		t.Errorf("got %v, %v", device, known)
	}
	if _, known := k.take("scratch1"); known {
		t.Error("a disk is known twice")
	}
	if device, known := k.take("image1"); !known || device != (blockDevice{254, 0}) {
		t.Errorf("got %v, %v", device, known)
	}
	if err := k.learn(blockClassOf(t, map[string]string{"vda/serial": "image1\n"})); err == nil {
		t.Error("a disk without a number is learned")
	}
}

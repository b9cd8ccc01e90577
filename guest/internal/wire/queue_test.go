package wire

import "testing"

func TestQueueRefusesMoreThanItsWindow(t *testing.T) {
	q := NewQueue(10)
	if err := q.Put(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if q.Put([]byte("x")) == nil {
		t.Error("11 bytes fit into a window of 10")
	}
	q.Drop()
	if _, ok := q.Take(); ok {
		t.Error("something was taken from a dropped queue")
	}
}

func TestCreditRefusesWhatWasNeverSent(t *testing.T) {
	c := NewCredit(10)
	c.Spend(4)
	if c.Add(5) == nil || c.Add(4) != nil || c.Wait() != 10 {
		t.Errorf("credit is %d", c.left)
	}
	c.Close()
	if c.Wait() != 0 {
		t.Error("a closed credit grants something")
	}
}

"""A vocabulary that decodes on the host, not in the graph."""

import copy
import pickle

import seqio

from mtf_switch.upstream.host_vocabulary import HostDecodedVocabulary


def test_a_host_decoded_vocabulary_hides_decode_tf_and_nothing_else():
    vocabulary = seqio.ByteVocabulary()
    # Mesh TF makes this check before it decodes inside the graph.
    assert hasattr(vocabulary, "decode_tf")
    hidden = HostDecodedVocabulary(vocabulary)
    for copied in (hidden, copy.deepcopy(hidden), pickle.loads(pickle.dumps(hidden))):
        assert not hasattr(copied, "decode_tf")
        assert copied.decode(copied.encode("Häuser")) == "Häuser"
        assert copied.vocab_size == vocabulary.vocab_size
        assert copied.eos_id == vocabulary.eos_id

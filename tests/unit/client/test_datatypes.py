from lanewise.model.tensors import DType
from lanewise_client.datatypes import ML_DTYPES, NUMPY_TYPES, TYPED_LISTS
from lanewise_client.protos import inference_pb2 as pb


def test_client_and_server_know_the_same_datatypes():
    assert NUMPY_TYPES.keys() | ML_DTYPES.keys() == {dtype.value for dtype in DType}


def test_every_typed_list_is_a_field_of_the_protocol():
    fields = {field.name for field in pb.InferTensorContents.DESCRIPTOR.fields}

    assert set(TYPED_LISTS.values()) == fields
    assert TYPED_LISTS.keys() == NUMPY_TYPES.keys() - {"FP16"}

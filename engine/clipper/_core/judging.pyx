"""How feedback judges outputs: losses of the core, or a function; labels as the core reads them."""

cimport cython
cimport numpy as cnp
from libc.stdint cimport int64_t

from clipper._core cimport native
from clipper._core.rows cimport RowSpec

import numpy as np

cnp.import_array()

_KINDS = {"zero_one": native.LossKind.kZeroOne, "absolute": native.LossKind.kAbsolute,
          "squared": native.LossKind.kSquared, "log": native.LossKind.kLog}


@cython.final
cdef class Judge:
    """One application's loss. `loss`: clipper.Loss, a function, or None for zero-one."""

    def __init__(self, RowSpec output, loss):
        cdef native.LossKind kind = native.LossKind.kZeroOne
        cdef double scale = 1.0
        self.output = output
        self.kind = "zero_one"
        if callable(loss):
            self.function = loss
        elif loss is not None:
            self.kind = loss.kind
            kind = <native.LossKind><int>_KINDS[loss.kind]
            scale = loss.scale
        try:
            self.loss = native.Loss(kind, scale, output.to_native())
        except ValueError as error:
            raise ValueError(f"loss={self.kind!r} does not fit outputs of {output.tensors!r}: "
                             f"{error}") from None

    cdef object read_labels(self, object labels, bint many, native.Labels* read,
                            native.ColumnRows* columns, Py_ssize_t* count):
        """Point `read` at labels, one or `many`; the result keeps them alive."""
        if self.output.is_plain:
            return self._read_plain(labels, many, read, columns, count)
        count[0] = 1
        read.rows = columns
        try:
            if many:
                return self.output.read_rows(labels, columns, count)
            return self.output.read_row(labels, columns)
        except (TypeError, ValueError) as error:
            text = str(error).replace("the input", "the label").replace("expects", "answers with")
            raise type(error)(text) from None

    cdef object _read_plain(self, object labels, bint many, native.Labels* read,
                            native.ColumnRows* columns, Py_ssize_t* count):
        array = np.asarray(labels)
        shape = self.output.only.shape
        if many and array.ndim == 0:
            raise TypeError(f"labels is {labels!r}: give one label a row, as a list or an array")
        rows = len(array) if many else 1
        count[0] = rows
        given = array.shape[1:] if many else array.shape
        is_class = given == () and self.loss.classes() > 0
        if is_class and (array.dtype.kind in "iub" or self.kind == "log"):
            classes = self._classes(array, rows)
            read.classes = <const int64_t*>cnp.PyArray_DATA(<cnp.ndarray>classes)
            return classes
        if given != shape and not (given == () and shape == (1,)):
            raise ValueError(
                f"a label has shape {given}, but outputs have shape {shape}: give labels of the "
                "same shape" + (", or the integers of classes" if self.loss.classes() > 0 else ""))
        if self.kind == "log":
            raise ValueError("log loss takes the integers of classes for labels, not rows")
        converted = self._converted(array)
        columns[0].data = <const native.Byte*>cnp.PyArray_DATA(<cnp.ndarray>converted)
        read.rows = columns
        return converted

    def _classes(self, array, rows):
        if array.dtype.kind not in "iub":
            raise TypeError(f"labels of {array.dtype} were given: log loss takes integers, the "
                            "classes that are right")
        if rows > 0 and not (array.min() >= 0 and array.max() < self.loss.classes()):
            raise ValueError(
                f"a label names class {array.min() if array.min() < 0 else array.max()}, but "
                f"outputs tell classes 0 to {self.loss.classes() - 1} apart")
        return np.ascontiguousarray(array, np.int64)

    def _converted(self, array):
        """Labels in the dtype of outputs, where that loses nothing but a float's last digits."""
        dtype = self.output.only.dtype
        is_whole = dtype.kind in "iub"
        kinds = "iub" if is_whole else "iubfc" if dtype.kind == "c" else "iubf"
        if array.dtype != dtype and array.dtype.kind not in kinds and array.size > 0:
            raise TypeError(f"a label of {array.dtype} was given ({array.ravel()[:1]}), but "
                            f"outputs are {dtype}: convert it first")
        converted = array.astype(dtype, order="C")
        if is_whole and array.dtype != dtype and not np.array_equal(converted, array):
            raise ValueError(f"a label cannot be an output, as {dtype} cannot hold it: "
                             f"{array[converted != array].ravel()[0]}")
        if not is_whole and not np.isfinite(array).all():
            raise ValueError("a label is not finite: give the number that would have been right")
        return converted

    cdef float by_function(self, native.Byte* output, const native.OutputLayout* layout,
                           object label) except? -1:
        """What the user's function makes of one output."""
        return checked_loss(self.function(self.output.row_out(output, layout), label),
                            "the loss function's result")


cdef float checked_loss(object value, object what) except? -1:
    """A loss or reward as given by a user."""
    cdef double number
    try:
        number = value
    except TypeError:
        raise TypeError(f"{what} is {value!r}: give a number from 0 to 1") from None
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"{what} is {value!r}: give a number from 0 to 1")
    return <float>number

"""Plans of stages, as Python has bound them, for the core."""

from libc.stdint cimport int64_t, uint64_t
from libcpp.memory cimport unique_ptr
from libcpp.string cimport string
from libcpp.utility cimport move

from clipper._core cimport native
from clipper._core.rows cimport RowSpec
from clipper._core.tensors cimport Spec

cdef dict _TESTS = {
    "<": <int>native.Test.kLess,
    "<=": <int>native.Test.kAtMost,
    ">": <int>native.Test.kMore,
    ">=": <int>native.Test.kAtLeast,
    "not >=": <int>native.Test.kNotAtLeast,
    "in": <int>native.Test.kAmong,
    "not in": <int>native.Test.kNotAmong,
}


cdef unique_ptr[const native.Plan] make_plan(object bound) except *:
    """None: no plan."""
    cdef unique_ptr[const native.Plan] made
    cdef native.PlanSpec spec
    cdef native.StageSpec stage
    if bound is None:
        return move(made)
    spec.input = (<RowSpec?>bound.input).to_native()
    for each in bound.stages:
        stage = stage_of(each)
        spec.stages.push_back(stage)
    for answer in bound.answers:
        spec.answers.push_back(answer)
    if bound.confidence is not None:
        spec.confidence = reading_of(bound.confidence)
    spec.answers_stand = bound.answers_stand
    made.reset(new native.Plan(spec))
    return move(made)


cdef native.StageSpec stage_of(object bound) except *:
    cdef native.StageSpec stage
    cdef native.Source source
    cdef native.Condition condition
    stage.model = bound.model
    stage.input = (<RowSpec?>bound.input).to_native()
    stage.output = (<RowSpec?>bound.output).to_native()
    stage.inputs.resize(len(bound.inputs))
    for column, sources in enumerate(bound.inputs):
        for place, of in sources:
            source.stage = native.kQueryInput if place is None else place
            source.column = of
            stage.inputs[column].push_back(source)
    for each in bound.conditions:
        condition = condition_of(each)
        stage.conditions.push_back(condition)
    return stage


cdef native.Reading reading_of(object bound) except *:
    cdef native.Reading reading
    reading.column = bound.column
    if bound.element is not None:
        reading.element = bound.element
    reading.tensor = (<Spec?>bound.spec).to_native()
    return reading


cdef native.Condition condition_of(object bound) except *:
    cdef native.Condition condition
    cdef string text
    condition.stage = bound.stage
    condition.reading = reading_of(bound.reading)
    condition.test = <native.Test><int>_TESTS[bound.test]
    if bound.threshold is not None:
        condition.threshold = as_number(bound.threshold)
    for number in bound.numbers:
        condition.numbers.push_back(as_number(number))
    for value in bound.texts:
        text = value
        condition.texts.push_back(text)
    return condition


cdef long double as_number(object number) except? -1:
    """Exact for all integers that an output can hold."""
    if not isinstance(number, int):
        return <double>number
    return <long double><int64_t>number if number < 0 else <long double><uint64_t>number

#include "arrays.h"

#include <array>
#include <memory>

#include <numpy/arrayobject.h>

#include "core/memory.h"

namespace nb = nanobind;

namespace shardwise {
namespace {

// Smaller results come from NumPy's own allocator, which keeps small blocks at hand. Its larger ones begin 16
// bytes into a cache line, so that every wide store touches two.
constexpr std::size_t block_threshold = std::size_t{32} << 10;

constexpr const char *block_name = "shardwise block"; // of the capsules that own one

void free_block(void *pointer) noexcept {
    const std::unique_ptr<Block> block(static_cast<Block *>(pointer));
    release_block(*block);
}

PyArrayObject *as_array(nb::handle array) {
    return reinterpret_cast<PyArrayObject *>(array.ptr());
}

std::optional<IdType> id_type(int type_num, std::size_t item) {
    if (!PyTypeNum_ISINTEGER(type_num))
        return std::nullopt;
    const bool is_signed = PyTypeNum_ISSIGNED(type_num);
    switch (item) {
    case 1:
        return is_signed ? IdType::i8 : IdType::u8;
    case 2:
        return is_signed ? IdType::i16 : IdType::u16;
    case 4:
        return is_signed ? IdType::i32 : IdType::u32;
    case 8:
        return is_signed ? IdType::i64 : IdType::u64;
    default:
        return std::nullopt;
    }
}

} // namespace

void import_numpy() {
    if (PyArray_ImportNumPyAPI() < 0)
        throw nb::python_error();
}

std::optional<IdArray> as_id_array(nb::handle object) {
    if (!PyArray_CheckExact(object.ptr()))
        return std::nullopt; // a subclass may mean more than its numbers
    PyArrayObject *const array = as_array(object);
    if (!PyArray_ISCARRAY_RO(array))
        return std::nullopt;
    const std::optional<IdType> type =
        id_type(PyArray_TYPE(array), static_cast<std::size_t>(PyArray_ITEMSIZE(array)));
    if (!type)
        return std::nullopt;
    return IdArray{PyArray_DATA(array),
                   *type,
                   static_cast<std::size_t>(PyArray_SIZE(array)),
                   {PyArray_DIMS(array), static_cast<std::size_t>(PyArray_NDIM(array))}};
}

nb::object new_array(nb::handle dtype, std::span<const std::intptr_t> lead,
                     std::span<const std::intptr_t> tail, bool *fresh) {
    std::array<npy_intp, NPY_MAXDIMS> dims;
    if (lead.size() + tail.size() > dims.size())
        throw nb::value_error("the result would have more than 64 dimensions");
    PyArray_Descr *const descr = reinterpret_cast<PyArray_Descr *>(dtype.ptr());
    auto bytes = static_cast<std::size_t>(PyDataType_ELSIZE(descr));
    int rank = 0;
    bool overflow = false;
    for (const auto part : {lead, tail}) {
        for (const std::intptr_t length : part) {
            dims[static_cast<std::size_t>(rank++)] = length;
            overflow |= __builtin_mul_overflow(bytes, static_cast<std::size_t>(length), &bytes);
        }
    }
    Py_INCREF(dtype.ptr());                    // PyArray_NewFromDescr takes a reference for itself
    if (overflow || bytes < block_threshold) { // NumPy says what is wrong with a size that cannot be
        nb::object array = nb::steal(
            PyArray_NewFromDescr(&PyArray_Type, descr, rank, dims.data(), nullptr, nullptr, 0, nullptr));
        if (!array.is_valid())
            throw nb::python_error();
        return array;
    }
    auto block = std::make_unique<Block>();
    try {
        *block = acquire_block(bytes);
    } catch (const std::bad_alloc &) {
        Py_DECREF(dtype.ptr());
        PyErr_Format(PyExc_MemoryError, "cannot allocate %zu bytes for the rows; look fewer up at once",
                     bytes);
        throw nb::python_error();
    }
    void *const data = block->data;
    if (fresh != nullptr)
        *fresh = block->fresh;
    nb::capsule owner(block.get(), block_name, free_block);
    (void)block.release();
    nb::object array = nb::steal(PyArray_NewFromDescr(&PyArray_Type, descr, rank, dims.data(), nullptr, data,
                                                      NPY_ARRAY_WRITEABLE, nullptr));
    if (!array.is_valid())
        throw nb::python_error();
    if (PyArray_SetBaseObject(as_array(array), owner.release().ptr()) < 0)
        throw nb::python_error();
    return array;
}

bool is_fresh(nb::handle array) {
    PyObject *base = array.ptr();
    while (base != nullptr && PyArray_Check(base))
        base = PyArray_BASE(as_array(base));
    if (base == nullptr || !PyCapsule_IsValid(base, block_name))
        return false;
    return static_cast<const Block *>(PyCapsule_GetPointer(base, block_name))->fresh;
}

std::byte *array_data(nb::handle array) {
    return static_cast<std::byte *>(PyArray_DATA(as_array(array)));
}

} // namespace shardwise

/* Comparing bytes in memory with those of a file, a cache's worth at a time. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>
#include <unistd.h>

/* Small enough that what was just read is compared out of the processor's cache. */
enum { BLOCK = 128 << 10 };

static __thread char block[BLOCK];

static PyObject *equals(PyObject *module, PyObject *args)
{
    (void)module;
    int fd;
    long long offset;
    Py_buffer data;
    Py_ssize_t start, stop;
    if (!PyArg_ParseTuple(args, "iLy*nn", &fd, &offset, &data, &start, &stop))
        return NULL;
    if (start < 0 || stop < start || stop > data.len) {
        PyBuffer_Release(&data);
        return PyErr_Format(PyExc_ValueError, "%zd..%zd of the bytes given", start, stop);
    }
    int is_equal = 1;
    Py_BEGIN_ALLOW_THREADS
    while (is_equal && start < stop) {
        size_t length = stop - start < BLOCK ? stop - start : BLOCK;
        ssize_t count = pread(fd, block, length, offset);
        is_equal = count > 0 && !memcmp(block, (char *)data.buf + start, count);
        start += count;
        offset += count;
    }
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&data);
    return PyBool_FromLong(is_equal);
}

static PyMethodDef methods[] = {
    {"equals", equals, METH_VARARGS,
     "equals(fd, offset, data, start, stop): whether data[start:stop] stands at offset of the file.\n"
     "False, too, when it cannot be read."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_compare", "Bytes against files.", -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__compare(void)
{
    return PyModule_Create(&module);
}

// The module that Python imports first: facts of the build, no torch.
#define Py_LIMITED_API 0x030a0000  // one file serves every Python from 3.10 on
#include <Python.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/dispatch.h"

namespace {

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const auto& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}

// Lists of words are made from text, because neither a word nor a name has a blank.
PyObject* words_of(const std::string& text) {
  PyObject* whole = PyUnicode_FromString(text.c_str());
  if (whole == nullptr) return nullptr;
  PyObject* words = PyUnicode_Split(whole, nullptr, -1);
  Py_DECREF(whole);
  return words;
}

PyObject* build_facts(PyObject*, PyObject*) {
  return Py_BuildValue("{s:s, s:s, s:s, s:s, s:N, s:N, s:N, s:s, s:s}",               //
                       "version", EKPNET_VERSION,                                     //
                       "compiler", EKPNET_COMPILER,                                   //
                       "sanitizers", EKPNET_SANITIZE,                                 //
                       "built_for_torch", EKPNET_TORCH_VERSION,                       //
                       "isas_built", words_of(joined(ekpnet::built_isas())),          //
                       "isas_supported", words_of(joined(ekpnet::supported_isas())),  //
                       "cuda_archs", words_of(EKPNET_CUDA_ARCHS),                     //
                       "cuda_compiler", EKPNET_CUDA_COMPILER,                         //
                       "cuda_reason", EKPNET_CUDA_REASON);
}

PyObject* chosen_isa(PyObject*, PyObject*) {
  try {
    return PyUnicode_FromString(ekpnet::isa_kernels().name);
  } catch (const std::runtime_error& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
}

PyMethodDef methods[] = {
    {"build_facts", build_facts, METH_NOARGS,
     "Version, compiler, instruction sets, CUDA architectures or why there are none."},
    {"chosen_isa", chosen_isa, METH_NOARGS,
     "The instruction set in use; RuntimeError if EKPNET_CPU_ISA names one that cannot be."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef module = {PyModuleDef_HEAD_INIT,
                      "_module",
                      "Facts of the native build; importing it loads neither torch nor the ops.",
                      0,
                      methods,
                      nullptr,
                      nullptr,
                      nullptr,
                      nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__module() { return PyModule_Create(&module); }

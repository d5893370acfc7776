# Prints the instruction levels that this machine runs the kernels at.
case $(uname -m) in
x86_64)
  printf 'x86-64'
  grep -qw avx2 /proc/cpuinfo && printf ' x86-64-v3'
  grep -qw avx512vl /proc/cpuinfo && printf ' x86-64-v4'
  printf '\n'
  ;;
*) printf 'baseline\n' ;;
esac

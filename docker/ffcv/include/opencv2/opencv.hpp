// Stands in for OpenCV's own opencv.hpp, which includes every module, installed or not.
#include <opencv2/core.hpp>
#include <opencv2/imgproc.hpp>

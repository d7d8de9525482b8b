// Bodies that client and service make alike.
'use strict';

exports.SIZES = [0, 1, 1000, 16_384, 65_537, 1_048_576, 8_388_608];

/** Bytes in which no two stretches of 64 KiB are the same. */
exports.body = (size) => {
  const content = Buffer.alloc(size);
  for (let i = 0; i < size; i++) content[i] = i + (i >> 8) * 7 + (i >> 16) * 13;
  return content;
};

exports.collect = async (stream) => {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return Buffer.concat(parts);
};

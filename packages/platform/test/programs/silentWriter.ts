/**
 * In place of the thread that writes: is there, and is never ready.
 */
setInterval(() => {}, 1000)

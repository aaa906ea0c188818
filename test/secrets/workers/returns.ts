/** Ends as if all were well, without an answer. */
export {}
